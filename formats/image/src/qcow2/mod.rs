//! qcow2, QEMU's copy-on-write format: read and written in versions 2 and 3.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, and for limits QEMU `block/qcow2.h` and what `qemu-img`
//! accepts. Read: every cluster size, zlib and zstd clusters, zero clusters, extended L2 entries,
//! external data files, backing files, clusters encrypted with LUKS.
//!
//! Checked and repaired (`check`), changed in place (`edit`), with internal snapshots and the list of
//! persistent bitmaps. Bitmaps that record fall behind when an image is changed here, and say so.
//!
//! Left out on purpose, each refused by name: the old AES encryption, writing to encrypted images,
//! incompatible features unknown to this program. Refcounts are not needed for reading and not looked at then; an image whose corrupt
//! bit is set is read (its details tell), each entry being checked as always.

mod allocator;
mod areas;
mod bitmap;
mod bits;
mod check;
mod create;
mod edit;
mod encryption;
mod entry;
mod extension;
mod header;
mod kept;
mod layer;
mod mapping;
mod new_header;
mod packer;
mod refcount;
mod snapshot_table;
mod tables;
mod target;

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Opened, Result, Storage, StorageMut};

use crate::check::Check;
use crate::details::{Details, Qcow2Details};
use crate::in_place::{Editing, LayerMut};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};
use crate::{
    Bitmap, Format, Qcow2Options, Snapshot, Snapshots, Target, TargetFiles, TargetSpec, codec,
};
use header::Header;
pub use kept::KeptBitmap;
use layer::Qcow2;
use snapshot_table::SnapshotTable;

/// Opens one qcow2 file, as it is or as it was at a snapshot.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let now = Header::read_any(&*opening.storage)?;
    let cipher = encryption::unlock(&now, &opening.storage, opening.key)?;
    let header = match opening.snapshot {
        None => now,
        Some(wanted) => {
            let table = SnapshotTable::read(&now, &*opening.storage)?;
            let entry = table.entries.get(table.find(wanted)?);
            entry
                .ok_or_else(|| Error::internal("a snapshot was lost"))?
                .as_of(&now, opening.storage.size())?
        }
    };
    let backing = header.backing_file.as_deref().map(|name| {
        Ok::<_, Error>(Backing {
            name: local_name(name, "backing file")?,
            format: header
                .backing_format
                .as_deref()
                .map(backing_format)
                .transpose()?,
        })
    });
    let backing = backing.transpose()?;

    let mut files = Vec::new();
    let mut file_size = opening.storage.size();
    let data_file = data_file_name(&header)?;
    let data = data_storage(&header, opening)?.map(|opened| {
        file_size = file_size.saturating_add(opened.storage.size());
        files.push(opened.path);
        opened.storage
    });

    let description = LayerDescription {
        path: opening.path.to_owned(),
        format: Format::Qcow2,
        sniffed: false,
        wrapper: None,
        virtual_size: header.size,
        file_size,
        unit: Some(header.geometry.cluster_size()),
        compression: Some(header.compression.as_str()),
        details: Details::Qcow2(Qcow2Details {
            compat: header.compat(),
            refcount_bits: header.refcount_bits,
            dirty: header.dirty,
            corrupt: header.corrupt,
            lazy_refcounts: header.lazy_refcounts,
            extended_l2: header.geometry.extended(),
            data_file,
            data_file_raw: header.data_file_raw,
            snapshots: header.snapshots,
            bitmaps: header.bitmaps,
        }),
        backing,
    };
    let layer = Qcow2::new(&header, Arc::clone(&opening.storage), data, cipher)?;
    Ok(OpenedLayer {
        layer: Arc::new(layer),
        description,
        files,
    })
}

/// The name of the data file, where the image has one.
fn data_file_name(header: &Header) -> Result<Option<PathBuf>> {
    if !header.has_data_file {
        return Ok(None);
    }
    let name = header.data_file.as_deref().ok_or_else(|| {
        Error::unsupported("keeps its data in another file without naming it")
            .in_structure("header extension")
    })?;
    local_name(name, "data file").map(Some)
}

/// The data file, where the image has one.
fn data_storage(header: &Header, opening: &Opening<'_>) -> Result<Option<Opened>> {
    let Some(name) = data_file_name(header)? else {
        return Ok(None);
    };
    let opened = opening.opener.open(&name, opening.path)?;
    if opened.path == opening.path {
        return Err(
            Error::corrupt("names itself as its data file").in_structure("header extension")
        );
    }
    Ok(Some(opened))
}

/// Checks one qcow2 file.
pub(crate) fn check(opening: &Opening<'_>) -> Result<Check> {
    let header = Header::read_any(&*opening.storage)?;
    let data = data_storage(&header, opening)?.map(|opened| opened.storage);
    check::check(&*opening.storage, data.as_ref())
}

/// Mends one qcow2 file.
pub(crate) fn repair(editing: &Editing<'_>) -> Result<Check> {
    let header = Header::read_any(&*editing.storage)?;
    let data = edit::data_file(editing, &header)?;
    let data: Option<Arc<dyn Storage>> = data.map(|data| -> Arc<dyn Storage> { data });
    check::repair(&editing.storage, data.as_ref())
}

/// Opens one qcow2 file for changes.
pub(crate) fn edit(editing: &Editing<'_>) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(edit::open(editing)?))
}

/// Opens one qcow2 file to change its snapshots.
pub(crate) fn edit_snapshots(editing: &Editing<'_>) -> Result<Box<dyn Snapshots>> {
    Ok(Box::new(edit::open(editing)?))
}

/// The snapshots of one qcow2 file.
pub(crate) fn snapshots(storage: &dyn Storage) -> Result<Vec<Snapshot>> {
    let header = Header::read_any(storage)?;
    let table = SnapshotTable::read(&header, storage)?;
    let describe = |entry: &snapshot_table::Entry| entry.describe(header.size);
    Ok(table.entries.iter().map(describe).collect())
}

/// The bitmaps of one qcow2 file.
pub(crate) fn bitmaps(storage: &dyn Storage) -> Result<Vec<Bitmap>> {
    bitmap::describe(&Header::read_any(storage)?, storage)
}

/// The bitmaps of one qcow2 file, for another to have them too.
pub(crate) fn keep_bitmaps(storage: &Arc<dyn Storage>) -> Result<Vec<KeptBitmap>> {
    kept::keep(storage)
}

/// Begins one qcow2 file.
pub(crate) fn create(
    spec: &TargetSpec,
    options: &Qcow2Options,
    storage: Arc<dyn StorageMut>,
    files: &dyn TargetFiles,
) -> Result<Box<dyn Target>> {
    Ok(Box::new(create::create(spec, options, storage, files)?))
}

/// A file name from an image, as a local path. QEMU also takes URLs, `json:{}` descriptions and
/// protocol prefixes here.
pub(crate) fn local_name(name: &[u8], what: &str) -> Result<PathBuf> {
    let bytes = name.strip_prefix(b"file:").unwrap_or(name);
    let head = bytes.split(|byte| *byte == b'/').next().unwrap_or(bytes);
    if let Some(end) = head.iter().position(|byte| *byte == b':') {
        let protocol = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
        return Err(Error::unsupported(format!(
            "{what} is named by protocol {protocol:?}, which is no local file"
        ))
        .in_structure("header")
        .hint("give the image a local file, for instance with qemu-img rebase -u"));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)).to_owned())
}

fn backing_format(name: &[u8]) -> Result<Format> {
    match name {
        // QEMU's protocol drivers, given as a format, are raw too.
        b"raw" | b"file" | b"host_device" => Ok(Format::Raw),
        b"qcow2" => Ok(Format::Qcow2),
        b"vmdk" => Ok(Format::Vmdk),
        b"vpc" => Ok(Format::Vhd),
        b"vhdx" => Ok(Format::Vhdx),
        b"vdi" => Ok(Format::Vdi),
        b"parallels" => Ok(Format::Parallels),
        b"qed" => Ok(Format::Qed),
        b"qcow" => Ok(Format::Qcow),
        _ => Err(Error::unsupported(format!(
            "backing file has format {:?}, which is not read",
            String::from_utf8_lossy(name)
        ))
        .in_structure("header extension")),
    }
}

/// The name of a file as an image stores it: QEMU, and [`local_name`], would take what is before a
/// colon for a protocol.
fn plain_name(name: &Path) -> PathBuf {
    let bytes = name.as_os_str().as_bytes();
    let head = bytes.split(|byte| *byte == b'/').next().unwrap_or(bytes);
    if head.contains(&b':') {
        Path::new(".").join(name)
    } else {
        name.to_owned()
    }
}

/// A backing file's name as a child stores it.
fn stored_name(name: &Path) -> Result<Vec<u8>> {
    let stored = plain_name(name).into_os_string().into_vec();
    if stored.is_empty() || stored.len() > 1023 {
        return Err(Error::usage("backing file name is too long or empty")
            .mismatch("1 to 1023 bytes", stored.len()));
    }
    Ok(stored)
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CompressionType {
    Zlib,
    Zstd,
}

impl CompressionType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    fn codec(self) -> Arc<dyn rehost_block::Codec> {
        match self {
            Self::Zlib => Arc::new(codec::RawDeflate),
            Self::Zstd => Arc::new(codec::Zstd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_name_with_a_colon_is_a_file_and_no_protocol() {
        let folder = Path::new("/folder");
        for name in ["json:base.qcow2", "nbd:a/b", "plain", "/a:b/c", "./a:b"] {
            let stored = plain_name(Path::new(name));
            let read = local_name(stored.as_os_str().as_bytes(), "backing file").unwrap();
            // Paths are compared by their parts, of which a dot inside is none.
            assert_eq!(folder.join(read), folder.join(name), "{name}");
        }
        assert!(local_name(b"json:base.qcow2", "backing file").is_err());
    }
}
