//! `rehost rm`: files inside an image.

use anyhow::Result;
use serde::Serialize;

use super::args::Rm;
use super::convert::explained;
use super::put::{decided, put};
use super::{Answer, output};
use crate::change::{Changes, Depth};
use crate::write::Outcome;

/// The result as JSON.
#[derive(Serialize)]
struct Removed {
    /// Files and directories.
    removed: u64,
    #[serde(flatten)]
    outcome: Option<Outcome>,
}

/// Runs the command.
pub(super) fn run(args: &Rm) -> Result<Answer> {
    if explained(&args.writing, args.destination.output.as_deref())? {
        return Ok(Answer::Done);
    }
    decided(&args.destination, &args.image)?;
    let voice = args.reporting.voice();
    let (opened, secrets) = args.opening.machine(&args.image, &args.place.more)?;
    let mut changes = Changes::begin(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(&args.image))?;
    let depth = if args.recursive {
        Depth::All
    } else {
        Depth::One
    };
    let mut removed = 0;
    for path in &args.paths {
        removed += changes.remove(path, depth)?;
    }
    let what = match removed {
        1 => "one file removed".to_owned(),
        count => format!("{count} files and directories removed"),
    };
    let to = (&args.destination, &args.opening, &args.writing);
    let outcome = put(changes, &opened, to, &what, voice)?;
    if args.reporting.json {
        output::json(&Removed { removed, outcome })?;
    }
    Ok(Answer::Done)
}
