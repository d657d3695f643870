//! `rehost create`: an image without content.

use std::path::Path;

use anyhow::Result;
use rehost_block::Error;
use rehost_image::Format;
use serde::Serialize;

use super::args::Create;
use super::convert::{explained, writing};
use super::{Answer, output};
use crate::guest::ImageOptions;
use crate::verbs::create::create;
use crate::voice::bytes;
use crate::write::Parent;

/// The result as JSON.
#[derive(Serialize)]
struct Created<'a> {
    image: &'a Path,
    format: Format,
    virtual_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing: Option<&'a Path>,
    file_bytes: u64,
}

/// Runs the command.
pub(super) fn run(args: &Create) -> Result<Answer> {
    if explained(&args.writing, Some(&args.image))? {
        return Ok(Answer::Done);
    }
    let voice = args.reporting.voice();
    let parent = match &args.backing {
        Some(path) => {
            let options = ImageOptions {
                format: args.backing_format,
                allow_paths: &args.allow_paths,
                secrets: &args.keys.secrets()?,
                ..ImageOptions::default()
            };
            Some(Parent::open(path, &args.image, &options)?)
        }
        None => None,
    };
    let size = args
        .size
        .or(parent.as_ref().map(|parent| parent.disk().size()))
        .ok_or_else(|| Error::usage("the size is missing").hint("sizes are like 10G or 512M"))?;
    let mut writing = writing(&args.writing, &args.image, &[])?;
    writing.parent = parent.as_ref();
    let format = writing.options.format();
    let written = create(&args.image, size, &writing)?;
    voice.step(format_args!(
        "Made {} ({format}, {}{}); it takes {} now.",
        args.image.display(),
        bytes(size),
        match &args.backing {
            Some(backing) => format!(", over {}", backing.display()),
            None => String::new(),
        },
        bytes(written.file_bytes)
    ));
    if args.reporting.json {
        output::json(&Created {
            image: &args.image,
            format,
            virtual_size: size,
            backing: args.backing.as_deref(),
            file_bytes: written.file_bytes,
        })?;
    }
    Ok(Answer::Done)
}
