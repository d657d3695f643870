//! `rehost compact`: an image without what it does not need.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::args::Compact;
use super::{Answer, output};
use crate::interrupt;
use crate::verbs::compact::{Compacted, compact};
use crate::voice::bytes;

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Path,
    #[serde(flatten)]
    compacted: Compacted,
    saved: i64,
}

/// Runs the command.
pub(super) fn run(args: &Compact) -> Result<Answer> {
    let voice = args.reporting.voice();
    let image = args.opening.image(&args.image)?;
    voice.step(format_args!("Writing {} anew.", args.image.display()));
    let compacted = compact(&image, args.compress, interrupt::flag()?, voice)?;
    let saved = compacted.saved();
    let count = bytes(saved.unsigned_abs());
    voice.step(format_args!(
        "{} takes {} now, {count} {} than before.",
        args.image.display(),
        bytes(compacted.after.allocated),
        if saved < 0 { "more" } else { "less" }
    ));
    if args.reporting.json {
        output::json(&Report {
            image: &args.image,
            compacted,
            saved,
        })?;
    }
    Ok(Answer::Done)
}
