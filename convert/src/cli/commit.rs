//! `rehost commit`: what an image holds goes into its parent.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::args::Commit;
use super::{Answer, output};
use crate::guest::opener;
use crate::interrupt;
use crate::verbs::commit::{Child, Committed, commit};
use crate::voice::bytes;

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Path,
    parent: &'a Path,
    emptied: bool,
    #[serde(flatten)]
    committed: Committed,
}

/// Runs the command.
pub(super) fn run(args: &Commit) -> Result<Answer> {
    let voice = args.reporting.voice();
    let image = args.opening.image(&args.image)?;
    let child = if args.keep {
        Child::Kept
    } else {
        Child::Emptied
    };
    let opener = opener(&args.opening.allow_paths)?;
    let committed = commit(&image, child, &opener, interrupt::flag()?)?;
    let parent = image
        .layers()
        .get(1)
        .map_or(Path::new(""), |layer| layer.path.as_path());
    voice.step(format_args!(
        "Put {} of {} into {}{}.",
        bytes(committed.copied),
        args.image.display(),
        parent.display(),
        match child {
            Child::Emptied => ", and emptied it",
            Child::Kept => "",
        }
    ));
    if args.reporting.json {
        output::json(&Report {
            image: &args.image,
            parent,
            emptied: child == Child::Emptied,
            committed,
        })?;
    }
    Ok(Answer::Done)
}
