//! `rehost dd`: a part of a disk.

use std::io;
use std::path::Path;

use anyhow::Result;
use rehost_block::{Disk, Error};
use serde::Serialize;

use super::args::Dd;
use super::convert::{summary, writing};
use super::{Answer, output};
use crate::guest::{ImageOptions, open_image, opener};
use crate::interrupt;
use crate::verbs::part::{Part, stream, write_over};
use crate::voice::bytes;
use crate::write::{Outcome, write_image};

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    source: &'a Path,
    target: &'a Path,
    #[serde(flatten)]
    part: Part,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_offset: Option<u64>,
    #[serde(flatten)]
    outcome: Option<Outcome>,
}

/// Runs the command.
pub(super) fn run(args: &Dd) -> Result<Answer> {
    let voice = args.reporting.voice();
    let allowed = &args.opening.allow_paths;
    let image = args.opening.image_at(&args.source, &args.earlier)?;
    let disk = image.disk();
    let part =
        Part::of(&*disk, args.offset, args.length).map_err(|error| error.in_file(&args.source))?;
    let window = part.window(disk)?;
    let cancel = interrupt::flag()?;
    let to_stdout = args.target == Path::new("-");
    if to_stdout && args.reporting.json {
        return Err(
            Error::usage("standard output cannot take the disk and the result as JSON")
                .hint("name a file, or leave --json out")
                .into(),
        );
    }
    voice.step(format_args!(
        "Copying {} of {} from byte {} to {}.",
        bytes(part.length),
        args.source.display(),
        part.offset,
        args.target.display()
    ));
    let mut outcome = None;
    match args.to_offset {
        Some(_) if to_stdout => {
            return Err(Error::usage("standard output has no offset")
                .hint("leave --to-offset out")
                .into());
        }
        Some(offset) => {
            let options = ImageOptions {
                format: args.writing.format,
                allow_paths: allowed,
                ..ImageOptions::default()
            };
            let target = open_image(&args.target, &options)?;
            if target
                .files()
                .iter()
                .any(|file| image.files().contains(file))
            {
                return Err(
                    Error::usage("belongs to the source, which is never changed")
                        .in_file(&args.target)
                        .into(),
                );
            }
            write_over(&window, &target, offset, &opener(allowed)?, cancel)?;
        }
        None if to_stdout => stream(&window, &mut io::stdout().lock(), cancel)?,
        None => {
            let writing = writing(&args.writing, &args.target, image.files())?;
            let written = write_image(&window as &dyn Disk, &args.target, &writing, voice)?;
            voice.step(summary(&written));
            outcome = Some(written);
        }
    }
    if args.reporting.json {
        output::json(&Report {
            source: &args.source,
            target: &args.target,
            part,
            to_offset: args.to_offset,
            outcome,
        })?;
    }
    Ok(Answer::Done)
}
