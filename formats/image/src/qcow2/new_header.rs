//! The header of an image being published: its first cluster.
//!
//! QEMU `docs/interop/qcow2.txt`, "Header" and "Header extensions".

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rehost_block::{Error, Result};

use super::CompressionType;
use super::areas::{AUTOCLEAR_BITMAPS, BITMAPS};
use super::extension::{BACKING_FORMAT, DATA_FILE_NAME, FEATURE_NAMES};
use super::header::{COMPRESSION_TYPE, DATA_FILE, DATA_FILE_RAW, EXTENDED_L2, LAZY_REFCOUNTS};
use crate::{Compat, Format};

/// Longest name of a backing file. The specification's.
const MAX_NAME: usize = 1023;

/// What does not change while the image is written.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) compat: Compat,
    /// Guest-visible bytes.
    pub(super) size: u64,
    pub(super) cluster_bits: u32,
    pub(super) extended_l2: bool,
    pub(super) lazy_refcounts: bool,
    /// Refcounts have `1 << refcount_order` bits.
    pub(super) refcount_order: u32,
    pub(super) compression: CompressionType,
    pub(super) backing: Option<(PathBuf, Format)>,
    pub(super) data_file: Option<PathBuf>,
    pub(super) data_file_raw: bool,
}

/// The directory of the bitmaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    pub(super) count: u32,
    pub(super) len: u64,
    pub(super) offset: u64,
}

/// Where the tables came to lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) bitmaps: Option<Directory>,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) refcount_offset: u64,
    pub(super) refcount_clusters: u64,
}

impl Plan {
    /// Whether the first cluster can hold all there is to say.
    ///
    /// # Errors
    /// Usage when a name is too long.
    pub(super) fn check(&self) -> Result<()> {
        let places = Places {
            bitmaps: Some(Directory {
                count: 0,
                len: 0,
                offset: 0,
            }),
            l1_offset: 0,
            l1_entries: 0,
            refcount_offset: 0,
            refcount_clusters: 0,
        };
        let len = self.encode(places).len();
        let cluster = 1usize.checked_shl(self.cluster_bits).unwrap_or(0);
        if len > cluster {
            return Err(
                Error::usage("backing and data file names do not fit the first cluster")
                    .mismatch(format!("at most {cluster} bytes of header"), len)
                    .hint("choose larger clusters"),
            );
        }
        match &self.backing {
            Some((name, _)) if name.as_os_str().len() > MAX_NAME => {
                Err(Error::usage("backing file name is too long")
                    .mismatch(format!("at most {MAX_NAME} bytes"), name.as_os_str().len()))
            }
            _ => Ok(()),
        }
    }

    /// The bytes of the first cluster, as far as they are not zero.
    pub(super) fn encode(&self, places: Places) -> Vec<u8> {
        let extensions = self.extensions(places.bitmaps);
        let header_len: usize = match self.compat {
            Compat::V2 => 72,
            Compat::V3 => 112,
        };
        // The name of the backing file follows the extensions.
        let name = self
            .backing
            .as_ref()
            .map(|(name, _)| name.as_os_str().as_bytes());
        let name_at = match name {
            Some(_) => number(header_len.saturating_add(extensions.len())),
            None => 0,
        };
        let version: u32 = match self.compat {
            Compat::V2 => 2,
            Compat::V3 => 3,
        };
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(b"QFI\xfb");
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&u64::from(name_at).to_be_bytes());
        bytes.extend_from_slice(&number(name.map_or(0, <[u8]>::len)).to_be_bytes());
        bytes.extend_from_slice(&self.cluster_bits.to_be_bytes());
        // QEMU would cut off a last sector that is not whole.
        bytes.extend_from_slice(&self.size.next_multiple_of(512).to_be_bytes());
        bytes.extend_from_slice(&[0; 4]); // not encrypted
        bytes.extend_from_slice(&short(places.l1_entries));
        bytes.extend_from_slice(&places.l1_offset.to_be_bytes());
        bytes.extend_from_slice(&places.refcount_offset.to_be_bytes());
        bytes.extend_from_slice(&short(places.refcount_clusters));
        bytes.extend_from_slice(&[0; 12]); // no snapshots
        if self.compat == Compat::V3 {
            let on = |flag: bool, bit: u64| if flag { bit } else { 0 };
            bytes.extend_from_slice(&self.incompatible().to_be_bytes());
            bytes.extend_from_slice(&on(self.lazy_refcounts, LAZY_REFCOUNTS).to_be_bytes());
            let autoclear = on(self.data_file_raw, DATA_FILE_RAW)
                | on(places.bitmaps.is_some(), AUTOCLEAR_BITMAPS);
            bytes.extend_from_slice(&autoclear.to_be_bytes());
            bytes.extend_from_slice(&self.refcount_order.to_be_bytes());
            bytes.extend_from_slice(&number(header_len).to_be_bytes());
            let kind = u8::from(self.compression == CompressionType::Zstd);
            bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes.extend_from_slice(&extensions);
        bytes.extend_from_slice(name.unwrap_or_default());
        bytes
    }

    fn incompatible(&self) -> u64 {
        self.features().iter().fold(0, |all, (bit, _)| {
            all | 1u64.checked_shl((*bit).into()).unwrap_or(0)
        })
    }

    /// The incompatible features in use: bit number and name.
    fn features(&self) -> Vec<(u8, &'static str)> {
        let bit = |flag: u64| u8::try_from(flag.trailing_zeros()).unwrap_or(0);
        let mut features = Vec::new();
        if self.data_file.is_some() {
            features.push((bit(DATA_FILE), "external data file"));
        }
        if self.compression == CompressionType::Zstd {
            features.push((bit(COMPRESSION_TYPE), "compression type"));
        }
        if self.extended_l2 {
            features.push((bit(EXTENDED_L2), "extended L2 entries"));
        }
        features
    }

    fn extensions(&self, bitmaps: Option<Directory>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some((_, format)) = &self.backing {
            extension(&mut bytes, BACKING_FORMAT, format_name(*format).as_bytes());
        }
        if let Some(name) = &self.data_file {
            extension(&mut bytes, DATA_FILE_NAME, name.as_os_str().as_bytes());
        }
        if let Some(directory) = bitmaps {
            let mut body = Vec::new();
            body.extend_from_slice(&directory.count.to_be_bytes());
            body.extend_from_slice(&[0; 4]);
            body.extend_from_slice(&directory.len.to_be_bytes());
            body.extend_from_slice(&directory.offset.to_be_bytes());
            extension(&mut bytes, BITMAPS, &body);
        }
        // Lets a QEMU too old for a feature say what it lacks.
        let mut names = Vec::new();
        for (bit, name) in self.features() {
            let mut entry = [0; 48];
            let text = [0, bit].into_iter().chain(name.bytes());
            for (place, byte) in entry.iter_mut().zip(text) {
                *place = byte;
            }
            names.extend_from_slice(&entry);
        }
        if !names.is_empty() {
            extension(&mut bytes, FEATURE_NAMES, &names);
        }
        bytes.extend_from_slice(&[0; 8]); // the end of the extensions
        bytes
    }
}

/// The format's name as QEMU calls its driver.
pub(super) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Vhd => "vpc",
        other => other.as_str(),
    }
}

fn extension(bytes: &mut Vec<u8>, kind: u32, body: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&number(body.len()).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// Lengths in a header, which are below a cluster's 2 MiB.
fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn short(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes()
}
