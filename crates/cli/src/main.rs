//! The binary `lateen`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lateen_cli::main()
}
