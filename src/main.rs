//! The `ronproxy` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ronproxy::internals::cli::main()
}
