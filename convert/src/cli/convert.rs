//! `rehost convert`: one image into another format.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rehost_image::Format;
use serde::Serialize;

use super::args::{self, Convert};
use super::{Answer, loudness, output};
use crate::guest::{evidence, open_image};
use crate::interrupt;
use crate::unfinished::Existing;
use crate::voice::{Voice, bytes};
use crate::write::{Outcome, Writing, format_of_name, write_image};

/// The result as JSON.
#[derive(Serialize)]
struct Converted<'a> {
    source: &'a std::path::Path,
    from: Format,
    target: &'a std::path::Path,
    to: Format,
    virtual_size: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs the command.
pub(super) fn run(args: &Convert) -> Result<Answer> {
    let voice = Voice::new(loudness(args.reporting.quiet));
    let image = open_image(&args.source, args.opening.format, &args.opening.allow_paths)?;
    let writing = writing(&args.writing, &args.target, image.files())?;
    let to = writing.format;
    let told = image.layers().first().and_then(evidence);
    let told = told.map_or(String::new(), |told| format!(", {told}"));
    voice.step(format_args!(
        "Copying {} ({}{told}, {}) to {} ({to}).",
        args.source.display(),
        image.format(),
        bytes(image.size()),
        args.target.display(),
    ));
    let outcome = write_image(&*image.disk(), &args.target, &writing, voice)?;
    voice.step(summary(&outcome));
    if args.reporting.json {
        output::json(&Converted {
            source: &args.source,
            from: image.format(),
            target: &args.target,
            to,
            virtual_size: image.size(),
            outcome,
        })?;
    }
    Ok(Answer::Done)
}

/// The options as typed, for an image called `target` made from the files `sources`.
pub(super) fn writing<'a>(
    args: &args::Writing,
    target: &Path,
    sources: &'a [PathBuf],
) -> Result<Writing<'a>> {
    Ok(Writing {
        format: match args.format {
            Some(format) => format,
            None => format_of_name(target)?,
        },
        compression: args.compress,
        existing: Existing::from_force(args.force),
        sources,
        threads: args.threads,
        cancel: interrupt::flag()?,
    })
}

/// One sentence about a copy.
pub(super) fn summary(outcome: &Outcome) -> String {
    format!(
        "Wrote {} ({} of data) in {:.1} s.",
        bytes(outcome.written.file_bytes),
        bytes(outcome.written.data_bytes),
        outcome.seconds
    )
}
