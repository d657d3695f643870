//! The commands: each takes its arguments as plain data, runs the pipeline, prints the result.

mod args;
mod check;
mod commit;
mod compact;
mod compare;
mod convert;
mod cp;
mod create;
mod dd;
mod du;
mod files;
mod flatten;
mod info;
mod inject;
mod inspect;
mod lsblk;
mod map;
mod measure;
mod migrate;
mod opening;
mod output;
mod put;
mod rebase;
mod reference;
mod resize;
mod rm;
mod serve;
mod snapshot;
mod spool;
mod tree;
mod undo;
mod verify;
mod walk;

use std::process::ExitCode;

pub use args::Arguments;
use args::Command;

use crate::voice::plain;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Done, or "yes".
    Done,
    /// "No", or "differs".
    No,
    /// The guest was booted and did not pass.
    NotVerified,
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        Self::from(match answer {
            Answer::Done => 0,
            Answer::No => 1,
            Answer::NotVerified => 3,
        })
    }
}

/// Exit code of a command that failed.
const FAILED: u8 = 2;

/// Runs the command that was asked for.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let wants_json = arguments.command.wants_json();
    let answer = match arguments.command {
        Command::Migrate(args) => migrate::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Rebase(args) => rebase::run(&args),
        Command::Commit(args) => commit::run(&args),
        Command::Flatten(args) => flatten::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Create(args) => create::run(&args),
        Command::Measure(args) => measure::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Dd(args) => dd::run(&args),
        Command::Undo(args) => undo::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Lsblk(args) => lsblk::run(&args),
        Command::Ls(args) => files::ls(&args),
        Command::Tree(args) => tree::run(&args),
        Command::Du(args) => du::run(&args),
        Command::Cat(args) => files::cat(&args),
        Command::Cp(args) => cp::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Completions { shell } => reference::completions(shell),
        Command::Man { folder } => reference::man(&folder),
        Command::Reference => reference::markdown(),
    };
    match answer {
        Ok(answer) => answer.into(),
        // Whoever read standard output has seen enough (`rehost map … | head`).
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rehost: {}", plain(&format!("{error:#}")));
            if wants_json {
                // The line above says it all; who reads standard output may be gone.
                let _ = output::error(&error);
            }
            ExitCode::from(FAILED)
        }
    }
}
