//! Finding the parent of a differencing VDI by its UUID, and checking that it was not changed.

use std::io;
use std::path::{Path, PathBuf};

use rehost_block::{Error, Kind, Result};

use super::header::{Header, Parent, STRUCTURE};
use crate::Format;
use crate::layer::{Backing, Opening};

/// Files looked at per folder. Ours: each costs one read of 512 bytes.
const MAX_FILES: usize = 4096;

/// Finds the disk that `parent` describes beside the image or in a folder that the user allowed.
///
/// # Errors
/// Io when no file there is that disk; Corrupt when it was changed since the child was made, or
/// when two files say that they are it.
pub(super) fn find_parent(opening: &Opening<'_>, parent: Parent) -> Result<Backing> {
    let own = opening.path.parent().map(Path::to_owned);
    let mut found: Vec<(PathBuf, Header)> = Vec::new();
    let mut refused = None;
    for folder in own.iter().chain(opening.opener.folders()) {
        for path in candidates(folder)? {
            // What cannot be opened or is no VDI is not the disk that is wanted.
            let opened = match opening.opener.open(&path, opening.path) {
                Ok(opened) => opened,
                Err(error) => {
                    if error.kind() == Kind::Usage {
                        refused.get_or_insert(error);
                    }
                    continue;
                }
            };
            let known = found.iter().any(|(path, _)| *path == opened.path);
            if known || opened.path == opening.path {
                continue;
            }
            match Header::read(&*opened.storage) {
                Ok(header) if header.uuid == parent.uuid => found.push((opened.path, header)),
                _ => {}
            }
        }
    }
    let changed = |header: &Header| !parent.modified.is_nil() && header.modified != parent.modified;
    match found.as_slice() {
        [] => Err(refused.unwrap_or_else(|| missing(parent))),
        [(path, header)] if changed(header) => Err(Error::corrupt(format!(
            "parent {} was changed after this disk was made from it",
            path.display()
        ))
        .in_structure(STRUCTURE)
        .at(0x1b8)
        .mismatch(
            format!("modification UUID {}", parent.modified),
            header.modified,
        )
        .hint("restore the parent as it was: with another content the data would be wrong")),
        [(path, _)] => Ok(Backing {
            name: path.clone(),
            format: Some(Format::Vdi),
        }),
        [(one, _), (other, _), ..] => Err(Error::corrupt(format!(
            "parent, the disk {}, is there twice: {} and {}",
            parent.uuid,
            one.display(),
            other.display()
        ))
        .in_structure(STRUCTURE)
        .at(0x1a8)
        .hint("move the one away that is not meant")),
    }
}

fn missing(parent: Parent) -> Error {
    let absent = io::Error::from(io::ErrorKind::NotFound);
    Error::io(
        format!(
            "parent, the disk {}, is not among the .vdi files of this folder",
            parent.uuid
        ),
        absent,
    )
    .in_structure(STRUCTURE)
    .at(0x1a8)
    .hint(
        "name the folder that has it with --allow-path (VirtualBox keeps the base one above \
         Snapshots)",
    )
}

/// The `.vdi` files of a folder, in the order of their names.
fn candidates(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = folder.read_dir() else {
        return Ok(Vec::new());
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let suffix = path.extension();
            suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("vdi"))
        })
        .take(MAX_FILES.saturating_add(1))
        .collect();
    if paths.len() > MAX_FILES {
        return Err(
            Error::unsupported("has too many VDIs to look for a parent among them")
                .in_file(folder)
                .mismatch(format!("at most {MAX_FILES}"), "more"),
        );
    }
    paths.sort();
    Ok(paths)
}
