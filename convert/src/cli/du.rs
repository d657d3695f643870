//! `rehost du`: how much room the files below a directory inside an image take.
//!
//! As du(1): the blocks that are allocated, or lengths on request, which is what a copy of them needs at
//! most, whatever filesystem it goes to. A file with several names counts once. JSON says both.

use anyhow::Result;
use rehost_fs::{Attributes, FileKind};
use serde::Serialize;

use super::args::Du;
use super::walk::{Walk, human};
use super::{Answer, output};
use crate::browse::{Browse, Entry, Found};

/// One line as JSON.
#[derive(Serialize)]
struct Sum {
    path: String,
    /// The path in hex, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base16: Option<String>,
    /// Lengths.
    bytes: u64,
    /// The room that they take.
    allocated: u64,
}

/// What is added up.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    bytes: u64,
    allocated: u64,
}

impl Room {
    fn of(file: &Attributes) -> Self {
        // Devices have no length.
        let bytes = match file.kind {
            FileKind::Regular | FileKind::Symlink | FileKind::Directory => file.size,
            _ => 0,
        };
        Self {
            bytes,
            allocated: file.allocated,
        }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            allocated: self.allocated.saturating_add(other.allocated),
        }
    }
}

/// Sums on their way.
struct Adding<'a> {
    args: &'a Du,
    walk: Walk<'a>,
    sums: Vec<Sum>,
}

/// Runs the command.
pub(super) fn run(args: &Du) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(&args.image, &args.place.more)?;
    let browse = Browse::open(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(&args.image))?;
    let root = browse.find(&args.path)?;
    let attributes = root.fs.attributes(root.inode)?;
    let mut adding = Adding {
        args,
        walk: Walk::new(&browse),
        sums: Vec::new(),
    };
    let own = Room::of(&attributes);
    match attributes.kind {
        FileKind::Directory => adding.directory(&root, own, 0)?,
        _ => {
            adding.tell(&root, own)?;
            own
        }
    };
    let Adding { walk, sums, .. } = adding;
    if args.json {
        output::json(&sums)?;
    }
    walk.end()?;
    Ok(Answer::Done)
}

impl Adding<'_> {
    /// Adds up a directory `depth` levels down, its own room included.
    fn directory(&mut self, directory: &Found, own: Room, depth: usize) -> Result<Room> {
        let mut sum = own;
        for entry in self.walk.go_into(directory, depth)? {
            sum = sum.and(self.entry(&entry, depth + 1)?);
        }
        if self.is_shown(depth) {
            self.tell(directory, sum)?;
        }
        Ok(sum)
    }

    fn entry(&mut self, entry: &Entry, depth: usize) -> Result<Room> {
        let own = Room::of(&entry.attributes);
        if entry.attributes.kind == FileKind::Directory {
            return self.directory(&entry.found, own, depth);
        }
        if self.walk.is_again(entry) {
            return Ok(Room::default());
        }
        if self.args.all && self.is_shown(depth) {
            self.tell(&entry.found, own)?;
        }
        Ok(own)
    }

    fn is_shown(&self, depth: usize) -> bool {
        let most = if self.args.summarize {
            Some(0)
        } else {
            self.args.max_depth
        };
        most.is_none_or(|most| depth <= most)
    }

    fn tell(&mut self, found: &Found, room: Room) -> Result<()> {
        if self.args.json {
            let (path, path_base16) = output::both(&found.path);
            self.sums.push(Sum {
                path,
                path_base16,
                bytes: room.bytes,
                allocated: room.allocated,
            });
            return Ok(());
        }
        let bytes = match self.args.apparent_size || self.args.bytes {
            true => room.bytes,
            false => room.allocated,
        };
        let shown = if self.args.human_readable {
            human(bytes)
        } else if self.args.bytes {
            bytes.to_string()
        } else {
            bytes.div_ceil(1024).to_string()
        };
        output::raw(format!("{shown}\t").as_bytes())?;
        output::name(&found.path)?;
        output::line("")
    }
}
