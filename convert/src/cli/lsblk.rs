//! `rehost lsblk` and `rehost inspect --volumes`: disks and all that lies on them, as a tree.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use rehost_image::Image;
use rehost_inspect::model::{Content, VolumeFound};
use rehost_inspect::{Volumes, find_mounts};
use rehost_volume::stack::{Kind, Use};
use serde::Serialize;

use super::args::Lsblk;
use super::walk::human;
use super::{Answer, output};
use crate::guest::OpenedVm;
use crate::secrets::Secrets;
use crate::voice::plain;

/// The result as JSON.
#[derive(Serialize)]
struct Listed<'a> {
    volumes: Vec<Row<'a>>,
    /// What is wrong, one sentence each.
    findings: Vec<&'a str>,
}

/// One disk or volume.
#[derive(Serialize)]
struct Row<'a> {
    /// The image, of a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a PathBuf>,
    #[serde(flatten)]
    volume: &'a VolumeFound,
}

/// Runs the command.
pub(super) fn run(args: &Lsblk) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(&args.source, &args.more)?;
    show(&opened, &secrets, args.json)
}

/// Shows what is on the disks of a machine, as JSON or for people.
pub(super) fn show(opened: &OpenedVm, secrets: &Secrets, json: bool) -> Result<Answer> {
    let mut volumes = Volumes::find(&opened.disks(), secrets)?;
    find_mounts(&mut volumes);
    if json {
        let image = |volume: &VolumeFound| {
            let image = opened.images.get(volume.at.disk)?;
            image.files().first().filter(|_| volume.kind == Kind::Disk)
        };
        output::json(&Listed {
            volumes: volumes
                .found
                .iter()
                .map(|volume| Row {
                    image: image(volume),
                    volume,
                })
                .collect(),
            findings: volumes
                .findings
                .iter()
                .map(|finding| finding.what.as_str())
                .collect(),
        })?;
        return Ok(Answer::Done);
    }
    print(&volumes, &opened.images)?;
    Ok(Answer::Done)
}

/// The columns, under the names that lsblk(8) gives them.
const HEADINGS: [&str; 7] = [
    "NAME",
    "TYPE",
    "SIZE",
    "FSTYPE",
    "LABEL",
    "UUID",
    "MOUNTPOINTS",
];

fn print(volumes: &Volumes, images: &[Image]) -> Result<()> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    let mut tree = Tree {
        found: &volumes.found,
        images,
        drawn: BTreeSet::new(),
        rows: &mut rows,
    };
    for (nth, volume) in volumes.found.iter().enumerate() {
        if volume.parents.is_empty() {
            tree.draw(nth, "", "");
        }
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (nth, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Sizes are read from the right.
            line += &match nth {
                2 => format!("{cell:>width$}  "),
                _ => format!("{cell:<width$}  "),
            };
        }
        output::line(line.trim_end())?;
    }
    if !volumes.findings.is_empty() {
        output::line("")?;
    }
    for finding in &volumes.findings {
        let fix = finding.fix.as_ref();
        let fix = fix.map_or_else(String::new, |fix| format!("; {fix}"));
        output::line(plain(&format!(
            "{}: {}{fix}",
            finding.severity, finding.what
        )))?;
    }
    Ok(())
}

struct Tree<'a> {
    found: &'a [VolumeFound],
    images: &'a [Image],
    /// What lies on several others is drawn under each, and what lies on it under the first.
    drawn: BTreeSet<usize>,
    rows: &'a mut Vec<[String; 7]>,
}

impl Tree<'_> {
    /// Ends because what lies on others comes after them.
    fn draw(&mut self, nth: usize, branch: &str, below: &str) {
        let Some(volume) = self.found.get(nth) else {
            return;
        };
        self.rows.push(self.row(volume, branch));
        if !self.drawn.insert(nth) {
            return;
        }
        let children: Vec<usize> = (nth + 1..self.found.len())
            .filter(|child| {
                let child = self.found.get(*child);
                child.is_some_and(|child| child.parents.contains(&nth))
            })
            .collect();
        let last = children.last().copied();
        for child in children {
            let (branch, further) = match Some(child) == last {
                true => ("└─", "  "),
                false => ("├─", "│ "),
            };
            self.draw(
                child,
                &format!("{below}{branch}"),
                &format!("{below}{further}"),
            );
        }
    }

    fn row(&self, volume: &VolumeFound, branch: &str) -> [String; 7] {
        let image = self.images.get(volume.at.disk);
        let file = image.and_then(|image| image.files().first()?.file_name());
        let name = match (volume.kind, file) {
            (Kind::Disk, Some(file)) => file.to_string_lossy().into_owned(),
            _ => volume.name.clone(),
        };
        let kind = match (volume.kind, &volume.form) {
            (Kind::Raid, Some(level)) => level,
            (Kind::Disk, _) => "disk",
            (Kind::Part, _) => "part",
            (Kind::Raid, None) => "raid",
            (Kind::Lvm, _) => "lvm",
            (Kind::Crypt, _) => "crypt",
        };
        let (holds, uuid) = match volume.usage {
            Some(Use::Mbr) => (Some("dos"), volume.usage_uuid.as_deref()),
            Some(Use::Gpt) => (Some("gpt"), volume.usage_uuid.as_deref()),
            Some(Use::Extended) => (Some("extended"), None),
            _ => (volume.content.kind(), volume.content.uuid()),
        };
        let mut mounted = volume.mounted.join(",");
        if matches!(volume.content, Content::Broken { .. }) {
            mounted.push_str("(not read)");
        }
        if !volume.damage.is_empty() {
            mounted.push_str("(!)");
        }
        [
            format!("{branch}{}", plain(&name)),
            kind.to_owned(),
            human(volume.size),
            holds.unwrap_or_default().to_owned(),
            plain(volume.content.label().unwrap_or_default()),
            uuid.unwrap_or_default().to_owned(),
            plain(&mounted),
        ]
    }
}
