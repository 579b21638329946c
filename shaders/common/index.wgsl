// The flat index of an invocation or a workgroup in a grid that the host folded into x and y,
// because one dimension stops at 65,535 workgroups.

fn flat_index(id: vec3<u32>, groups: vec3<u32>, group_size: u32) -> u32 {
    return id.x + id.y * groups.x * group_size;
}

fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}
