//! `rehost measure`: how long an image would be.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rehost_block::{Disk, Error};
use rehost_image::Format;
use serde::Serialize;

use super::args::Measure;
use super::convert::{explained, writing};
use super::{Answer, output};
use crate::copy::CopyOptions;
use crate::guest::ImageOptions;
use crate::interrupt;
use crate::verbs::measure::{Blank, Measured, measure};
use crate::voice::bytes;
use crate::write::{Parent, spec};

/// The result as JSON: `required` and `fully-allocated` are what `qemu-img measure` calls so.
#[derive(Serialize)]
struct Report {
    format: Format,
    #[serde(flatten)]
    measured: Measured,
}

/// Runs the command.
pub(super) fn run(args: &Measure) -> Result<Answer> {
    if explained(&args.writing, None)? {
        return Ok(Answer::Done);
    }
    let voice = args.reporting.voice();
    let format = args.writing.format.ok_or_else(|| {
        Error::usage("the format of the new image is missing").hint("say which with --to FORMAT")
    })?;
    let name = PathBuf::from(format!("disk.{format}"));
    let parent = match &args.backing {
        Some(path) => {
            let secrets = args.opening.keys.secrets()?;
            let options = ImageOptions {
                format: args.backing_format,
                ..args.opening.options(&secrets)
            };
            Some(Parent::open(path, &name, &options)?)
        }
        None => None,
    };
    let image = match &args.source {
        Some(source) => Some(args.opening.image_at(source, &args.earlier)?),
        None => None,
    };
    let blank = Blank(args.size.unwrap_or(0));
    let disk = image.as_ref().map(|image| image.disk());
    let disk: &dyn Disk = match &disk {
        Some(disk) => &**disk,
        None => &blank,
    };
    let mut writing = writing(&args.writing, &name, &[])?;
    writing.parent = parent.as_ref();
    let cancel = interrupt::flag()?;
    voice.step(format_args!(
        "Measuring {} as {format}.",
        args.source
            .as_deref()
            .map_or("an empty disk".into(), |source: &Path| source
                .display()
                .to_string())
    ));
    let bar = voice.bar(disk.size(), 0);
    let options = CopyOptions {
        threads: writing.threads.unwrap_or(CopyOptions::default().threads),
        progress: Some(&bar),
        cancel: Some(cancel),
        parent: writing.parent.map(Parent::disk),
        ..CopyOptions::default()
    };
    let measured = measure(disk, &spec(disk.size(), &name, &writing), &options, cancel);
    bar.finish();
    let measured = measured?;
    if args.reporting.json {
        output::json(&Report { format, measured })?;
        return Ok(Answer::Done);
    }
    for (what, count) in [
        ("required:", measured.required),
        ("fully allocated:", measured.fully_allocated),
    ] {
        output::line(format_args!("{what:<17}{} ({count} bytes)", bytes(count)))?;
    }
    if measured.files.len() > 1 {
        for file in &measured.files {
            output::line(format_args!("  {:<15}{} bytes", file.name, file.required))?;
        }
    }
    Ok(Answer::Done)
}
