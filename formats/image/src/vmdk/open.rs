//! Opening a VMDK: descriptor, extents, and the check that the parent is the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Kind, Opened, Result, Storage};

use super::descriptor::Parent;
use super::header::Grains;
use super::layer::{Body, Joined, Part};
use super::members::{self, Member, Members, read_descriptor};
use super::sparse::{Absent, SparseExtent};
use crate::Format;
use crate::details::{Details, VmdkDetails};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};

/// Grain directory entries of all extents together, for bounded memory (32 MiB). Ours.
const MAX_DIRECTORY_ENTRIES: u64 = 8 << 20;

/// Opens one image of a chain.
///
/// # Errors
/// Usage when the opener refuses a file; Io when one cannot be opened; Unsupported and Corrupt by
/// name, structure and offset.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let members = members::open(opening)?;
    let backing = match &members.descriptor.parent {
        None => None,
        Some(parent) => Some(check_parent(opening, parent)?),
    };
    let absent = match backing {
        Some(_) => Absent::Below,
        None => Absent::Zero,
    };
    let headers = || {
        members
            .members
            .iter()
            .filter_map(|member| match &member.body {
                members::Body::Sparse(_, header) => Some(header),
                _ => None,
            })
    };
    let compressed = headers().any(|header| header.grains == Grains::Compressed);
    let unit = headers().next().map(|header| header.grain.get());
    let layer = Arc::new(join(&members, absent)?);
    let Members {
        descriptor, files, ..
    } = members;
    Ok(OpenedLayer {
        description: LayerDescription {
            path: opening.path.to_owned(),
            format: Format::Vmdk,
            sniffed: false,
            wrapper: None,
            virtual_size: descriptor.size()?,
            file_size: files
                .iter()
                .map(|opened| opened.storage.size())
                .fold(opening.storage.size(), u64::saturating_add),
            unit,
            compression: compressed.then_some("zlib"),
            backing,
            details: Details::Vmdk(VmdkDetails {
                create_type: descriptor.create_type,
                cid: descriptor.cid,
                adapter: descriptor.adapter,
                extents: descriptor.extents.len(),
            }),
        },
        layer,
        files: files.into_iter().map(|opened| opened.path).collect(),
    })
}

/// The members as one layer.
///
/// # Errors
/// Corrupt for extents that are shorter than the descriptor says, or have too many tables.
pub(super) fn join(members: &Members, absent: Absent) -> Result<Joined> {
    let mut directory_entries = 0u64;
    let mut parts = Vec::new();
    for Member { range, body } in &members.members {
        let body = match body {
            members::Body::Zero => Body::Zero,
            members::Body::Forbidden(line) => Body::Forbidden(*line),
            members::Body::Flat(file, offset) => {
                let len = range.end.saturating_sub(range.start);
                check_flat(&*file.storage, *offset, len)?;
                Body::Flat(Arc::clone(&file.storage), *offset)
            }
            members::Body::Sparse(file, header) => {
                directory_entries = directory_entries.saturating_add(header.gd_entries);
                if directory_entries > MAX_DIRECTORY_ENTRIES {
                    return Err(
                        Error::corrupt("extents have too many grain directory entries")
                            .in_file(file.storage.name())
                            .mismatch(format!("at most {MAX_DIRECTORY_ENTRIES}"), "more"),
                    );
                }
                let storage = Arc::clone(&file.storage);
                Body::Sparse(SparseExtent::open(storage, *header, absent)?)
            }
        };
        parts.push(Part {
            range: range.clone(),
            body,
        });
    }
    Ok(Joined::new(parts))
}

/// Finds the parent and compares its `CID` with what the child remembers.
pub(super) fn check_parent(opening: &Opening<'_>, parent: &Parent) -> Result<Backing> {
    let (name, opened) = find_parent(opening, &parent.hint)?;
    let (descriptor, ..) =
        read_descriptor(&*opened.storage).map_err(|error| error.in_file(&opened.path))?;
    if descriptor.cid != parent.cid {
        return Err(Error::corrupt(format!(
            "parent {} was changed after this disk was made from it",
            opened.path.display()
        ))
        .in_structure("descriptor")
        .mismatch(
            format!("CID {:08x}", parent.cid),
            format!("{:08x}", descriptor.cid),
        )
        .hint("restore the parent as it was: with another one the data would be wrong"));
    }
    Ok(Backing {
        name,
        format: Some(Format::Vmdk),
    })
}

/// Opens the parent by its hint; where that is a path of the machine that made it, by its file name
/// beside the child. The `CID` tells whether it is the right file.
fn find_parent(opening: &Opening<'_>, hint: &Path) -> Result<(PathBuf, Opened)> {
    let missing = match opening.opener.open(hint, opening.path) {
        Ok(opened) => return Ok((hint.to_owned(), opened)),
        Err(error) => error,
    };
    let text = hint.as_os_str().to_string_lossy();
    let name = text.rsplit(['/', '\\']).next().unwrap_or_default();
    if missing.kind() != Kind::Io || name.is_empty() || *name == *text {
        return Err(missing);
    }
    match opening.opener.open(Path::new(name), opening.path) {
        Ok(opened) => Ok((PathBuf::from(name), opened)),
        Err(_) => Err(missing),
    }
}

pub(super) fn check_flat(storage: &dyn Storage, offset: u64, len: u64) -> Result<()> {
    let size = storage.size();
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(
            Error::corrupt("flat extent is shorter than its descriptor says")
                .in_file(storage.name())
                .at(size)
                .mismatch(format!("{} bytes", offset.saturating_add(len)), size)
                .hint("the file is truncated: copy it again from its origin"),
        ),
    }
}
