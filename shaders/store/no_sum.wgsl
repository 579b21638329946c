// All codes are of the result itself.

alias element_addend4 = vec4<f32>;

fn addend_at(i: u32) -> element_addend4 {
    return element_addend4();
}

fn with_addend(stored: vec4<f32>, added: element_addend4) -> vec4<f32> {
    return stored;
}
