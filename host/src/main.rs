//! The `millrace` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace::cli::main()
}
