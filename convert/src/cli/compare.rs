//! `rehost compare`: whether two images have the same content, or an image the one that it had when its
//! checksums were made.

use std::path::Path;

use anyhow::Result;
use rehost_image::Image;
use serde::Serialize;

use super::args::Compare;
use super::{Answer, output};
use crate::checksum::{Algorithm, Sidecar, Verification, hex, verify};
use crate::copy::{Comparison, CopyOptions, compare};
use crate::guest::{ImageOptions, open_image};
use crate::interrupt;
use crate::secrets::Secrets;
use crate::voice::bytes;

/// Differing stretches that are shown; JSON has ...
const SHOWN: usize = 10;

/// ... so many.
const LISTED: usize = 10_000;

/// The result as JSON.
#[derive(Serialize)]
struct Compared {
    same: bool,
    #[serde(flatten)]
    comparison: Comparison,
}

/// The result with checksums as JSON.
#[derive(Serialize)]
struct Checked {
    same: bool,
    algorithm: Algorithm,
    /// The root of the image's tree, at the sidecar's size, and that of the sidecar.
    root: String,
    expected_root: String,
    sizes: (u64, u64),
    differing_bytes: u64,
    /// Where leaves differ, the first of them if there are very many.
    differences: Vec<Stretch>,
}

#[derive(Serialize)]
struct Stretch {
    offset: u64,
    length: u64,
}

/// Runs the command.
pub(super) fn run(args: &Compare) -> Result<Answer> {
    match (&args.checksum, &args.right) {
        (Some(sidecar), _) => with_checksums(args, sidecar),
        (None, Some(right)) => with_image(args, right),
        (None, None) => anyhow::bail!("name two images, or one and --checksum SIDECAR"),
    }
}

fn with_image(args: &Compare, right: &Path) -> Result<Answer> {
    let secrets = args.keys.secrets()?;
    let left = left(args, &secrets)?;
    let options = ImageOptions {
        format: args.right_format.or(args.format),
        allow_paths: &args.allow_paths,
        snapshot: args.right_snapshot.as_deref(),
        secrets: &secrets,
    };
    let right = open_image(right, &options)?;
    let comparison = compare(&*left.disk(), &*right.disk())?;
    let (ours, theirs) = comparison.sizes;
    if args.json {
        output::json(&Compared {
            same: comparison.same(),
            comparison,
        })?;
    } else if !args.quiet {
        match comparison.first_difference {
            Some(at) => output::line(format_args!("The images differ, first at byte {at}."))?,
            None if ours == theirs => output::line("The images have the same content.")?,
            None => output::line(format_args!(
                "The images have the same content; {ours} and {theirs} bytes long, the longer \
                 one ends in zeroes."
            ))?,
        }
    }
    Ok(if comparison.same() {
        Answer::Done
    } else {
        Answer::No
    })
}

/// The first image.
fn left(args: &Compare, secrets: &Secrets) -> rehost_block::Result<Image> {
    let options = ImageOptions {
        format: args.left_format.or(args.format),
        allow_paths: &args.allow_paths,
        snapshot: args.left_snapshot.as_deref(),
        secrets,
    };
    open_image(&args.left, &options)
}

fn with_checksums(args: &Compare, path: &Path) -> Result<Answer> {
    let expected = Sidecar::read(path)?
        .tree()
        .map_err(|error| error.in_file(path))?;
    let image = left(args, &args.keys.secrets()?)?;
    let options = CopyOptions {
        cancel: Some(interrupt::flag()?),
        ..CopyOptions::default()
    };
    let size = image.size();
    let Verification { found, differences } = verify(&image.disk(), &expected, &options)?;
    let same = differences.is_empty();
    if args.json {
        output::json(&Checked {
            same,
            algorithm: found.algorithm,
            root: hex(&found.root),
            expected_root: hex(&expected.root),
            sizes: (size, expected.size),
            differing_bytes: differences.iter().map(|(_, length)| length).sum(),
            differences: differences
                .iter()
                .take(LISTED)
                .map(|(offset, length)| Stretch {
                    offset: *offset,
                    length: *length,
                })
                .collect(),
        })?;
    } else if args.quiet {
        // The exit code tells.
    } else if same {
        output::line(format_args!(
            "The image has the content that the checksums were made of ({} {}).",
            found.algorithm,
            hex(&found.root)
        ))?;
    } else {
        output::line(format_args!(
            "The image differs from its checksums in {} places:",
            differences.len()
        ))?;
        for (offset, length) in differences.iter().take(SHOWN) {
            output::line(format_args!("  {} from byte {offset} on", bytes(*length)))?;
        }
        if differences.len() > SHOWN {
            output::line(format_args!("  and {} more", differences.len() - SHOWN))?;
        }
    }
    if !args.json && !args.quiet && size != expected.size {
        output::line(format_args!(
            "It is {size} bytes long, and was {}.",
            expected.size
        ))?;
    }
    Ok(if same { Answer::Done } else { Answer::No })
}
