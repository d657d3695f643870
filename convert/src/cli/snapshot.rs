//! `rehost snapshot`: the internal snapshots of an image.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use rehost_block::{Error, File};
use rehost_image::{Format, Snapshot, snapshots};
use serde::Serialize;

use super::args::{self, SnapshotAction};
use super::{Answer, output};
use crate::guest::opener;
use crate::verbs::snapshot::{Action, change};
use crate::voice::bytes;

/// The result as JSON: the snapshots that there are then.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Path,
    snapshots: &'a [Snapshot],
}

/// Runs the command.
pub(super) fn run(args: &args::Snapshot) -> Result<Answer> {
    let voice = args.reporting.voice();
    let image = args.opening.image(&args.image)?;
    let action = action(&args.action);
    if let Some(action) = action {
        change(&image, action, &opener(&args.opening.allow_paths)?)?;
        voice.step(match action {
            Action::Create(name) => format!("Kept the disk as it is now under {name:?}."),
            Action::Apply(name) => format!("The disk is what it was at {name:?}."),
            Action::Delete(name) => format!("Forgot {name:?}."),
        });
    }
    let layer = image
        .layers()
        .first()
        .ok_or_else(|| Error::internal("an image without a file"))?;
    let list = snapshots(
        &layer.path,
        layer.format,
        Arc::new(File::open(&layer.path)?),
    )?;
    let takes = matches!(layer.format, Format::Qcow2);
    if action.is_none() && !takes {
        return Err(Error::unsupported(format!(
            "is a {} image: that format has no internal snapshots",
            layer.format
        ))
        .in_file(&args.image)
        .into());
    }
    if args.reporting.json {
        output::json(&Report {
            image: &args.image,
            snapshots: &list,
        })?;
    } else if action.is_none() {
        if list.is_empty() {
            voice.step("It has no snapshots.");
        }
        for snapshot in &list {
            output::line(listed(snapshot))?;
        }
    }
    Ok(Answer::Done)
}

/// What is asked for, but for a list.
fn action(typed: &SnapshotAction) -> Option<Action<'_>> {
    let SnapshotAction {
        list: _,
        create,
        apply,
        delete,
    } = typed;
    match (create, apply, delete) {
        (Some(name), _, _) => Some(Action::Create(name)),
        (_, Some(name), _) => Some(Action::Apply(name)),
        (_, _, Some(name)) => Some(Action::Delete(name)),
        (None, None, None) => None,
    }
}

/// One line about a snapshot.
pub(super) fn listed(snapshot: &Snapshot) -> String {
    let seconds = i64::try_from(snapshot.date_seconds).unwrap_or(i64::MAX);
    let date = Timestamp::from_second(seconds).map_or("?".into(), |date| date.to_string());
    let state = match snapshot.vm_state_size {
        0 => String::new(),
        size => format!(", with {} of memory", bytes(size)),
    };
    format!(
        "{} {:?}: {date}, {}{state}",
        snapshot.id,
        snapshot.name,
        bytes(snapshot.disk_size)
    )
}
