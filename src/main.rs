//! The `ronproxy` program.

fn main() {}
