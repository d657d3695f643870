//! `rehost undo`: puts back what a killed run left half changed, or a change that was kept.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rehost_block::journal::{Recovered, kept, left_over, recover};
use serde::Serialize;

use super::args::Undo;
use super::{Answer, output};
use crate::guest::opener;
use crate::source;
use crate::voice::bytes;

/// The result as JSON.
#[derive(Serialize)]
struct Undone<'a> {
    image: &'a Path,
    files: &'a [PathBuf],
    bytes: u64,
}

/// Runs the command.
pub(super) fn run(args: &Undo) -> Result<Answer> {
    let voice = args.reporting.voice();
    let opener = opener(&args.allow_paths)?;
    // A VM's disks change together, and what they held is kept beside the first of them.
    let image = if let Some(described) = source::description(&args.image) {
        let vm = source::read(&args.image, described, &opener)?;
        let first = vm.disks.into_iter().next().map(|disk| disk.path);
        first.unwrap_or_else(|| args.image.clone())
    } else {
        args.image.clone()
    };
    let recovered = if left_over(&image)?.is_some() {
        let recovered = recover(&image, &opener)?;
        voice.step(sentence(&recovered));
        recovered
    } else {
        let recovered = kept::undo(&image, &opener)?;
        voice.step(format_args!(
            "Took back the change of {} ({}).",
            image.display(),
            bytes(recovered.bytes)
        ));
        recovered
    };
    if args.reporting.json {
        output::json(&Undone {
            image: &image,
            files: &recovered.files,
            bytes: recovered.bytes,
        })?;
    }
    Ok(Answer::Done)
}

/// One sentence about what was put back.
pub(super) fn sentence(recovered: &Recovered) -> String {
    let files: Vec<String> = recovered
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    if files.is_empty() {
        return "The run that was killed had changed nothing; its journal is gone.".into();
    }
    format!(
        "Rolled back the change of {} that was interrupted ({}).",
        files.join(" and "),
        bytes(recovered.bytes)
    )
}
