//! `rehost rebase`: another parent.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::args::Rebase;
use super::{Answer, output};
use crate::guest::{ImageOptions, open_image, opener};
use crate::interrupt;
use crate::verbs::rebase::{Rebased, rebase, rename};
use crate::voice::bytes;
use crate::write::refuse_wrapped;

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Path,
    backing: &'a Path,
    content_compared: bool,
    #[serde(flatten)]
    rebased: Rebased,
}

/// Runs the command.
pub(super) fn run(args: &Rebase) -> Result<Answer> {
    let voice = args.reporting.voice();
    let allowed = &args.opening.allow_paths;
    let secrets = args.opening.keys.secrets()?;
    let options = ImageOptions {
        format: args.backing_format,
        ..args.opening.options(&secrets)
    };
    let parent = open_image(&args.backing, &options)?;
    refuse_wrapped(&parent)?;
    let opener = opener(allowed)?;
    let rebased = if args.trusted {
        rename(&args.image, args.opening.format, &parent, &opener)?;
        Rebased::default()
    } else {
        let image = args.opening.image(&args.image)?;
        rebase(&image, Some(&parent), &opener, interrupt::flag()?)?
    };
    voice.step(format_args!(
        "The parent of {} is {} now{}.",
        args.image.display(),
        args.backing.display(),
        if args.trusted {
            "; its content was not looked at".to_owned()
        } else {
            format!("; {} that differ were copied first", bytes(rebased.copied))
        }
    ));
    if args.reporting.json {
        output::json(&Report {
            image: &args.image,
            backing: &args.backing,
            content_compared: !args.trusted,
            rebased,
        })?;
    }
    Ok(Answer::Done)
}
