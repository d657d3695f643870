//! Files of this host into an image.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use rehost_block::Error;
use rehost_fs::HostFile;
use serde::Serialize;

use super::Copied;
use crate::change::{Changes, New};
use crate::cli::args::Cp;
use crate::cli::convert::explained;
use crate::cli::put::{decided, put};
use crate::cli::walk::DEEPEST;
use crate::cli::{Answer, output};
use crate::write::Outcome;

/// The result as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    copied: Copied,
    #[serde(flatten)]
    outcome: Option<Outcome>,
}

/// Copies what is named into the image `name`, to `path` in it.
pub(super) fn copy(args: &Cp, name: &Path, path: &Path) -> Result<Answer> {
    if explained(&args.writing, args.destination.output.as_deref())? {
        return Ok(Answer::Done);
    }
    decided(&args.destination, name)?;
    let voice = args.reporting.voice();
    let source = Path::new(&args.source);
    let meta = fs::metadata(source)
        .map_err(|error| Error::io("cannot be opened", error).in_file(source))?;
    if meta.is_dir() && !args.recursive {
        return Err(Error::usage("is a directory")
            .in_file(source)
            .hint("copy it with -r")
            .into());
    }
    let (opened, secrets) = args.opening.machine(name, &args.place.more)?;
    let mut changes = Changes::begin(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(name))?;
    let mut target = path.to_owned();
    if changes.is_directory(path)? {
        // `..` and `/` have no name of their own.
        let own = source.canonicalize();
        let own = own.map_err(|error| Error::io("cannot be opened", error).in_file(source))?;
        target.push(source.file_name().or(own.file_name()).unwrap_or_default());
    }
    let mut copied = Copied::default();
    tree(&mut changes, source, &meta, &target, &mut copied, 0)?;
    let to = (&args.destination, &args.opening, &args.writing);
    let outcome = put(
        changes,
        &opened,
        to,
        &format!("{copied} copied into it"),
        voice,
    )?;
    copied.tell(voice);
    if args.reporting.json {
        output::json(&Report { copied, outcome })?;
    }
    Ok(Answer::Done)
}

fn tree(
    changes: &mut Changes,
    source: &Path,
    meta: &fs::Metadata,
    target: &Path,
    copied: &mut Copied,
    depth: usize,
) -> Result<()> {
    let failed = |error| Error::io("cannot be read", error).in_file(source);
    // The set-id bits stay here: they are for programs of this host.
    let mode = u16::try_from(meta.permissions().mode() & 0o777).unwrap_or(0o644);
    if meta.is_dir() && depth <= DEEPEST {
        changes.put(target, New::Directory(mode))?;
        copied.directories += 1;
        let mut entries = fs::read_dir(source)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let meta = entry.metadata().map_err(failed)?;
            let target = target.join(entry.file_name());
            tree(changes, &path, &meta, &target, copied, depth + 1)?;
        }
    } else if meta.is_symlink() {
        let link = fs::read_link(source).map_err(failed)?;
        changes.put(target, New::Link(link.as_os_str().as_bytes()))?;
        copied.links += 1;
    } else if meta.is_file() {
        changes.put(target, New::File(&HostFile::open(source)?, mode))?;
        copied.files += 1;
    } else {
        copied.skipped.push(source.to_owned());
    }
    Ok(())
}
