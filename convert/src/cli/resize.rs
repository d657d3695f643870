//! `rehost resize`: another size, in place.

use std::path::Path;

use anyhow::Result;
use rehost_image::Format;
use serde::Serialize;

use super::args::Resize;
use super::{Answer, output};
use crate::guest::opener;
use crate::interrupt;
use crate::verbs::resize::{Resized, Shrinking, resize, wanted};
use crate::voice::bytes;

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Path,
    format: Format,
    #[serde(flatten)]
    resized: Resized,
}

/// Runs the command.
pub(super) fn run(args: &Resize) -> Result<Answer> {
    let voice = args.reporting.voice();
    let image = args.opening.image(&args.image)?;
    let size = wanted(&args.size, image.size())?;
    let shrinking = match (args.shrink, args.force) {
        (false, _) => Shrinking::Refused,
        (true, false) => Shrinking::Zeroes,
        (true, true) => Shrinking::Anything,
    };
    let opener = opener(&args.opening.allow_paths)?;
    let resized = resize(&image, size, shrinking, &opener, interrupt::flag()?)?;
    voice.step(format_args!(
        "{} is {} ({} bytes) now, it was {}.",
        args.image.display(),
        bytes(resized.after),
        resized.after,
        bytes(resized.before)
    ));
    if args.reporting.json {
        output::json(&Report {
            image: &args.image,
            format: image.format(),
            resized,
        })?;
    }
    Ok(Answer::Done)
}
