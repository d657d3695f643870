//! qcow2, QEMU's copy-on-write format: read and written in versions 2 and 3.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, and for limits QEMU `block/qcow2.h` and what `qemu-img`
//! accepts. Read: every cluster size, zlib and zstd clusters, zero clusters, extended L2 entries,
//! external data files, backing files.
//!
//! Left out on purpose, each refused by name: encryption (AES and LUKS), images whose corrupt bit
//! is set, incompatible features unknown to this program. Internal snapshots and persistent
//! bitmaps are counted and otherwise not looked at: the active layer is what is read. Refcounts
//! are not needed for reading and are not checked.

mod allocator;
mod create;
mod entry;
mod extension;
mod header;
mod layer;
mod mapping;
mod new_header;
mod packer;
mod refcount;
mod tables;
mod target;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Result, Storage, StorageMut};

use crate::details::{Details, Qcow2Details};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};
use crate::{Format, Qcow2Options, Target, TargetFiles, TargetSpec, codec};
use header::Header;
use layer::Qcow2;

/// Opens one qcow2 file.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let header = Header::read(&*opening.storage)?;
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
    let mut data: Option<Arc<dyn Storage>> = None;
    let mut data_file = None;
    if header.has_data_file {
        let name = header.data_file.as_deref().ok_or_else(|| {
            Error::unsupported("keeps its data in another file without naming it")
                .in_structure("header extension")
        })?;
        let name = local_name(name, "data file")?;
        let opened = opening.opener.open(&name, opening.path)?;
        if opened.path == opening.path {
            return Err(
                Error::corrupt("names itself as its data file").in_structure("header extension")
            );
        }
        file_size = file_size.saturating_add(opened.storage.size());
        files.push(opened.path);
        data = Some(opened.storage);
        data_file = Some(name);
    }

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
            lazy_refcounts: header.lazy_refcounts,
            extended_l2: header.geometry.extended(),
            data_file,
            data_file_raw: header.data_file_raw,
            snapshots: header.snapshots,
            bitmaps: header.bitmaps,
        }),
        backing,
    };
    let layer = Qcow2::new(&header, Arc::clone(&opening.storage), data)?;
    Ok(OpenedLayer {
        layer: Arc::new(layer),
        description,
        files,
    })
}

/// Begins one qcow2 file.
pub(crate) fn create(
    spec: &TargetSpec,
    options: &Qcow2Options,
    storage: Arc<dyn StorageMut>,
    files: &dyn TargetFiles,
) -> Result<Box<dyn Target>> {
    let name = storage.name().to_owned();
    let target =
        create::create(spec, options, storage, files).map_err(|error| error.in_file(name))?;
    Ok(Box::new(target))
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
        _ => Err(Error::unsupported(format!(
            "backing file has format {:?}, which is not read",
            String::from_utf8_lossy(name)
        ))
        .in_structure("header extension")),
    }
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
