//! `rehost du`: how much the files below a directory inside an image hold.
//!
//! Lengths are added up, and not the room that they take: that is what a copy of them needs at most,
//! whatever filesystem it goes to. A file with several names counts once.

use anyhow::Result;
use rehost_fs::FileKind;
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
    bytes: u64,
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
    let browse = Browse::open(&opened.disks(), &secrets, args.place.volume.as_deref())
        .map_err(|error| error.in_file(&args.image))?;
    let root = browse.find(&args.path)?;
    let attributes = root.fs.attributes(root.inode)?;
    let mut adding = Adding {
        args,
        walk: Walk::new(&browse),
        sums: Vec::new(),
    };
    match attributes.kind {
        FileKind::Directory => adding.directory(&root, attributes.size, 0)?,
        _ => {
            adding.tell(&root, attributes.size)?;
            attributes.size
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
    /// Adds up a directory `depth` levels down, its own length included.
    fn directory(&mut self, directory: &Found, own: u64, depth: usize) -> Result<u64> {
        let mut sum = own;
        for entry in self.walk.go_into(directory, depth)? {
            sum = sum.saturating_add(self.entry(&entry, depth + 1)?);
        }
        if self.is_shown(depth) {
            self.tell(directory, sum)?;
        }
        Ok(sum)
    }

    fn entry(&mut self, entry: &Entry, depth: usize) -> Result<u64> {
        let size = entry.attributes.size;
        if entry.attributes.kind == FileKind::Directory {
            return self.directory(&entry.found, size, depth);
        }
        if self.walk.is_again(entry) {
            return Ok(0);
        }
        // Devices have no length.
        let size = match entry.attributes.kind {
            FileKind::Regular | FileKind::Symlink => size,
            _ => 0,
        };
        if self.args.all && self.is_shown(depth) {
            self.tell(&entry.found, size)?;
        }
        Ok(size)
    }

    fn is_shown(&self, depth: usize) -> bool {
        let most = if self.args.summarize {
            Some(0)
        } else {
            self.args.max_depth
        };
        most.is_none_or(|most| depth <= most)
    }

    fn tell(&mut self, found: &Found, bytes: u64) -> Result<()> {
        if self.args.json {
            let (path, path_base16) = output::both(&found.path);
            self.sums.push(Sum {
                path,
                path_base16,
                bytes,
            });
            return Ok(());
        }
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
