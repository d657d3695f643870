//! `compact`: the same image without what it does not need: units of zeroes, units that its parent
//! has too, and room that nothing refers to.
//!
//! It is written anew, with the options that it has, and takes the old one's place when it is whole. So
//! compaction needs room for the new one, and is as safe as a conversion.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rehost_block::{Error, Result};
use rehost_image::{
    Adapter, Compat, Compression, Details, Image, LayerDescription, Qcow2Details, Qcow2Options,
    RawOptions, TargetOptions, VdiKind, VdiOptions, VhdKind, VhdOptions, VhdxKind, VhdxOptions,
    VhdxSubformat, VmdkKind, VmdkOptions,
};
use serde::Serialize;

use crate::copy::{Kind, map};
use crate::unfinished::Existing;
use crate::voice::Voice;
use crate::write::{Parent, Writing, write_image};

/// What the files of an image take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Their lengths in bytes.
    pub length: u64,
    /// What they take of the file system, in bytes: less, where there are holes.
    pub allocated: u64,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Before.
    pub before: Room,
    /// After.
    pub after: Room,
}

impl Compacted {
    /// Bytes of the file system that were won; negative when the new image takes more.
    #[must_use]
    pub fn saved(&self) -> i64 {
        self.before
            .allocated
            .wrapping_sub(self.after.allocated)
            .cast_signed()
    }
}

/// Writes the first file of `image` anew in its place. `compression` asks for another one than the
/// image has.
///
/// # Errors
/// Unsupported, by name, for what would be lost (internal snapshots, bitmaps) and for images of
/// several files or of kinds that are not written; otherwise as [`write_image`].
pub fn compact(
    image: &Image,
    compression: Option<Compression>,
    cancel: &AtomicBool,
    voice: Voice,
) -> Result<Compacted> {
    let layer = image
        .layers()
        .first()
        .ok_or_else(|| Error::internal("an image without a file"))?;
    let refused = |what: String| Error::unsupported(what).in_file(&layer.path);
    if let Some(wrapping) = &layer.wrapper {
        return Err(refused(format!(
            "is wrapped in {}, and nothing in it can be left out without packing all of it again",
            wrapping.wrapper
        ))
        .hint("convert it into a new image instead"));
    }
    let own = own_files(image);
    if own.len() > 1 {
        return Err(refused(format!(
            "cannot be compacted: it is made of {} files, which cannot all be replaced at once",
            own.len()
        ))
        .hint("convert it into a new image instead"));
    }
    let compression = match compression {
        Some(compression) => Some(compression),
        None => compression_of(image, layer)?,
    };
    let mut writing = Writing::new(options_of(layer)?, cancel);
    writing.compression = compression;
    writing.existing = Existing::Replace;
    let parent = match &layer.backing {
        Some(named) => Some(Parent::of(image, named.name.clone())?),
        None => None,
    };
    writing.parent = parent.as_ref();
    let before = room(&layer.path)?;
    let permissions = fs::metadata(&layer.path).map(|meta| meta.permissions());
    write_image(&*image.disk(), &layer.path, &writing, voice)?;
    permissions
        .and_then(|permissions| fs::set_permissions(&layer.path, permissions))
        .map_err(|error| Error::io("cannot set its permissions", error).in_file(&layer.path))?;
    Ok(Compacted {
        before,
        after: room(&layer.path)?,
    })
}

/// The files of an image without its parents'.
fn own_files(image: &Image) -> Vec<&PathBuf> {
    let parent = image.layers().get(1).map(|layer| &layer.path);
    image
        .files()
        .iter()
        .take_while(|file| Some(*file) != parent)
        .collect()
}

fn room(path: &Path) -> Result<Room> {
    let meta =
        fs::metadata(path).map_err(|error| Error::io("cannot be examined", error).in_file(path))?;
    Ok(Room {
        length: meta.len(),
        allocated: meta.blocks() * 512,
    })
}

/// How an image is compressed: by its codec, at the level that is usual, when any of its own units
/// is.
fn compression_of(image: &Image, layer: &LayerDescription) -> Result<Option<Compression>> {
    let Some(codec) = layer.compression else {
        return Ok(None);
    };
    for extent in map(&*image.disk()) {
        let extent = extent?;
        if extent.kind == Kind::Packed && extent.file.as_deref() == Some(&layer.path) {
            return codec.parse().map(Some);
        }
    }
    Ok(None)
}

/// What would have to be asked for to get an image of the same kind.
///
/// # Errors
/// Unsupported, by name, for what is not written or would be lost.
pub fn options_of(layer: &LayerDescription) -> Result<TargetOptions> {
    let refused = |what: String| Error::unsupported(what).in_file(&layer.path);
    let unit = layer.unit.and_then(|unit| u32::try_from(unit).ok());
    Ok(match &layer.details {
        Details::Raw => TargetOptions::Raw(RawOptions::default()),
        Details::Qcow2(details) => TargetOptions::Qcow2(qcow2(details, unit).map_err(refused)?),
        Details::Vmdk(details) => {
            let kind = match details.create_type.as_str() {
                "monolithicSparse" => VmdkKind::MonolithicSparse,
                "streamOptimized" => VmdkKind::StreamOptimized,
                kind => return Err(refused(format!("VMDKs of kind {kind} cannot be compacted"))),
            };
            let adapter = details.adapter.as_deref().and_then(adapter);
            TargetOptions::Vmdk(VmdkOptions {
                kind,
                adapter: adapter.unwrap_or_default(),
                ..VmdkOptions::default()
            })
        }
        Details::Vhd(details) => TargetOptions::Vhd(VhdOptions {
            kind: if details.disk_type == "fixed" {
                VhdKind::Fixed
            } else {
                VhdKind::Dynamic
            },
            block_size: unit,
            ..VhdOptions::default()
        }),
        Details::Vhdx(details) => TargetOptions::Vhdx(VhdxOptions {
            kind: if details.kind == VhdxKind::Fixed {
                VhdxSubformat::Fixed
            } else {
                VhdxSubformat::Dynamic
            },
            block_size: unit,
            logical_sector: Some(details.logical_sector),
            physical_sector: Some(details.physical_sector),
        }),
        Details::Vdi(details) => TargetOptions::Vdi(VdiOptions {
            kind: if details.image_type == "static" {
                VdiKind::Static
            } else {
                VdiKind::Dynamic
            },
        }),
        _ => return Err(refused(format!("{} images are not written", layer.format))),
    })
}

/// A controller by the word of a descriptor.
fn adapter(word: &str) -> Option<Adapter> {
    [
        Adapter::LsiLogic,
        Adapter::BusLogic,
        Adapter::Ide,
        Adapter::Pvscsi,
        Adapter::LegacyEsx,
    ]
    .into_iter()
    .find(|known| known.as_str().eq_ignore_ascii_case(word))
}

fn qcow2(details: &Qcow2Details, unit: Option<u32>) -> Result<Qcow2Options, String> {
    let losses = [
        (details.snapshots > 0, "internal snapshots"),
        (details.bitmaps > 0, "bitmaps"),
        (details.data_file.is_some(), "an external data file"),
    ];
    if let Some((_, what)) = losses.into_iter().find(|(lost, _)| *lost) {
        return Err(format!("images with {what} cannot be compacted"));
    }
    Ok(Qcow2Options {
        compat: if details.compat == "0.10" {
            Compat::V2
        } else {
            Compat::V3
        },
        cluster_size: unit,
        extended_l2: details.extended_l2,
        lazy_refcounts: details.lazy_refcounts,
        refcount_bits: Some(details.refcount_bits),
        ..Qcow2Options::default()
    })
}
