//! The `qdetr` command.

fn main() {}
