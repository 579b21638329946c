// What stands outside of an image: the code of zero.
fn outside_x() -> RawX {
    return RawX(padding());
}
