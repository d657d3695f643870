//! `rehost compare`: whether two images have the same content.

use anyhow::Result;
use serde::Serialize;

use super::args::Compare;
use super::{Answer, output};
use crate::copy::{Comparison, compare};
use crate::guest::open_image;

/// The result as JSON.
#[derive(Serialize)]
struct Compared {
    same: bool,
    #[serde(flatten)]
    comparison: Comparison,
}

/// Runs the command.
pub(super) fn run(args: &Compare) -> Result<Answer> {
    let left = open_image(&args.left, args.left_format, &args.allow_paths)?;
    let right = open_image(&args.right, args.right_format, &args.allow_paths)?;
    let comparison = compare(&*left.disk(), &*right.disk())?;
    let (ours, theirs) = comparison.sizes;
    if args.json {
        output::json(&Compared {
            same: comparison.same(),
            comparison,
        })?;
    } else {
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
