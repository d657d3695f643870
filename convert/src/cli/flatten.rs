//! `rehost flatten`: an image that needs no parent.

use std::path::Path;

use anyhow::Result;
use rehost_block::Error;
use rehost_image::Image;
use serde::Serialize;

use super::args::Flatten;
use super::convert::{summary, writing};
use super::{Answer, output};
use crate::guest::opener;
use crate::interrupt;
use crate::verbs::rebase::{Rebased, rebase};
use crate::voice::{Voice, bytes};
use crate::write::{Outcome, write_image};

/// The result as JSON: what was copied into the image, or what was written.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a Path>,
    #[serde(flatten)]
    rebased: Option<Rebased>,
    #[serde(flatten)]
    outcome: Option<Outcome>,
}

/// Runs the command.
pub(super) fn run(args: &Flatten) -> Result<Answer> {
    let voice = args.reporting.voice();
    let image = args.opening.image(&args.image)?;
    let mut report = Report {
        image: &args.image,
        target: args.target.as_deref(),
        rebased: None,
        outcome: None,
    };
    match &args.target {
        Some(target) => report.outcome = Some(to_new(args, &image, target, voice)?),
        None => {
            if image.layers().len() < 2 {
                return Err(Error::usage("has no parent: it stands alone already")
                    .in_file(&args.image)
                    .into());
            }
            let opener = opener(&args.opening.allow_paths)?;
            let rebased = rebase(&image, None, &opener, interrupt::flag()?)?;
            voice.step(format_args!(
                "{} stands alone now; {} of its parents were copied into it.",
                args.image.display(),
                bytes(rebased.copied)
            ));
            report.rebased = Some(rebased);
        }
    }
    if args.reporting.json {
        output::json(&report)?;
    }
    Ok(Answer::Done)
}

fn to_new(args: &Flatten, image: &Image, target: &Path, voice: Voice) -> Result<Outcome> {
    let mut typed = args.writing.clone();
    if typed.format.is_none() && crate::write::format_of_name(target).is_err() {
        typed.format = Some(image.format());
    }
    let writing = writing(&typed, target, image.files())?;
    voice.step(format_args!(
        "Copying {} and its parents to {}.",
        args.image.display(),
        target.display()
    ));
    let outcome = write_image(&*image.disk(), target, &writing, voice)?;
    voice.step(summary(&outcome));
    Ok(outcome)
}
