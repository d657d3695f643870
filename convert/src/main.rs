//! The `rehost` program: turns the outcome of a command into an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use rehost::cli::{self, Arguments};

fn main() -> ExitCode {
    cli::run(Arguments::parse())
}
