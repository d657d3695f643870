//! Wrappers: gzip, xz, zstd and bzip2 around an image, read at any position.
//!
//! RFC 1952, the xz file format 1.1.0, RFC 8878 with Zstandard's seekable format 0.1.0, bzip2 1.0.
//! Where the wrapper says where its independent pieces are (the index of xz, the seek table or frame
//! sizes of zstd, the extra fields of BGZF and of gzip as it is written here), a piece is decoded
//! when it is asked for, and nothing else. Any other stream is decoded once, from its first byte to
//! its last, into a temporary file without a name, in which zeroes are holes; the description of
//! the image says so. Check sums are compared, and a stream that is cut or followed by anything else
//! is an error.
//!
//! Left out on purpose: wrappers inside wrappers, refused by name; the older `.lzma` and `.Z`, which
//! are read as what their bytes say, raw; zstd dictionaries and windows beyond 128 MiB.

mod gzip;
mod pieces;
mod seekable;
mod spool;
mod target;
mod xz;
mod zstd;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rehost_block::{Error, Result, Storage};
use serde::Serialize;

use crate::Format;
use crate::options::parse_size;
use pieces::Pieces;
pub use target::wrap;

/// Plain bytes of a piece at most, so that a few of them fit into memory. Ours: the blocks of `xz -6`
/// have 24 MiB.
const MAX_PIECE: u64 = 32 << 20;

/// Pieces of one file that are kept account of (64 MiB). Ours: as BGZF they are 256 GiB.
const MAX_PIECES: usize = 4 << 20;

/// The variable that has the limit of [`Unpacking`].
const LIMIT: &str = "REHOST_UNPACK_LIMIT";

/// What an image can be wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrapper {
    /// gzip, one member or many.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
}

impl Wrapper {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }

    /// The wrapper that a file name's suffix stands for.
    #[must_use]
    pub fn of_name(name: &Path) -> Option<Self> {
        let suffix = name.extension()?.to_str()?;
        suffix.parse().ok()
    }

    /// What a storage's first bytes say it is wrapped in.
    ///
    /// # Errors
    /// Io when these bytes cannot be read.
    pub fn sniff(storage: &dyn Storage) -> Result<Option<Self>> {
        let mut head = [0; 10];
        let len = usize::try_from(storage.size())
            .unwrap_or(head.len())
            .min(head.len());
        let head = head.get_mut(..len).unwrap_or_default();
        storage.read_at(head, 0)?;
        Ok(match &*head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // A block, or the end of an empty stream.
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
            ]
            | [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x17,
                0x72,
                0x45,
                0x38,
                0x50,
                0x90,
            ] => Some(Self::Bzip2),
            _ => None,
        })
    }
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Wrapper {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Ok(Self::Gzip),
            "xz" => Ok(Self::Xz),
            "zst" | "zstd" => Ok(Self::Zstd),
            "bz2" | "bzip2" => Ok(Self::Bzip2),
            _ => Err(Error::usage(format!("unknown wrapper {name:?}"))
                .hint("known wrappers: gz, xz, zst, bz2")),
        }
    }
}

/// How a wrapped image is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Each piece by itself, when it is asked for.
    Index {
        /// How many there are.
        pieces: usize,
    },
    /// It was decoded as a whole into a temporary file in this folder.
    TemporaryFile {
        /// The folder.
        folder: PathBuf,
    },
}

/// What an image was taken out of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wrapping {
    /// The wrapper, told by its first bytes.
    pub wrapper: Wrapper,
    /// How it is read.
    pub access: Access,
    /// Bytes of the image inside.
    pub plain_size: u64,
}

/// What may be spent on wrappers that have to be decoded as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacking {
    /// Plain bytes of one wrapped file at most, zeroes included: how long a small file may keep
    /// this program busy.
    pub most: u64,
    /// Where temporary files go. It should be on a disk: in a file system that lives in memory they
    /// take that.
    pub folder: PathBuf,
}

impl Unpacking {
    /// [`Unpacking::most`] unless another is given: 4 TiB. Ours.
    pub const MOST: u64 = 4 << 40;
}

impl Unpacking {
    /// What the environment says: `$REHOST_UNPACK_LIMIT`, a size like `8T`, or else
    /// [`Unpacking::MOST`]; and `$TMPDIR` or else `/var/tmp`, which is on a disk where `/tmp` may not
    /// be.
    ///
    /// # Errors
    /// Usage when the limit is no size.
    pub fn from_environment() -> Result<Self> {
        let most = match std::env::var(LIMIT) {
            Err(_) => Self::MOST,
            Ok(text) => parse_size(&text).ok_or_else(|| {
                Error::usage(format!("{LIMIT} is {text:?}, which is no size"))
                    .hint("sizes are like 512M, 8T")
            })?,
        };
        Ok(Self {
            most,
            folder: std::env::var_os("TMPDIR")
                .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from),
        })
    }
}

/// The wrapper of the file `path`, whose format was given as `named`. A file that is said to be raw
/// may begin with anything: it is wrapped only if its name says so too.
///
/// # Errors
/// Io when its first bytes cannot be read.
pub(crate) fn find(
    path: &Path,
    storage: &dyn Storage,
    named: Option<Format>,
) -> Result<Option<Wrapper>> {
    let said = Wrapper::of_name(path);
    let found = Wrapper::sniff(storage)?;
    Ok(found.filter(|found| named != Some(Format::Raw) || said == Some(*found)))
}

/// Refuses to change a wrapped file in place.
///
/// # Errors
/// Unsupported when it is one.
pub(crate) fn refuse(path: &Path, storage: &dyn Storage) -> Result<()> {
    match Wrapper::sniff(storage)? {
        None => Ok(()),
        Some(wrapper) => Err(Error::unsupported(format!(
            "is wrapped in {wrapper}, and cannot be changed in place"
        ))
        .in_file(path)
        .hint("convert it into a new image first")),
    }
}

/// The image inside `storage`, which is wrapped in `wrapper`.
///
/// # Errors
/// Corrupt when the wrapper is damaged, cut, or followed by anything else, as far as that shows
/// without decoding what has an index; Unsupported for a wrapper in a wrapper or more than
/// `unpacking` allows.
pub fn unwrap(
    storage: Arc<dyn Storage>,
    wrapper: Wrapper,
    unpacking: &Unpacking,
) -> Result<(Arc<dyn Storage>, Wrapping)> {
    let index = match wrapper {
        Wrapper::Gzip => gzip::index(&*storage)?,
        Wrapper::Xz => xz::index(&*storage)?,
        Wrapper::Zstd => match seekable::index(&*storage)? {
            Some(index) => Some(index),
            None => zstd::index(&*storage)?,
        },
        Wrapper::Bzip2 => None,
    };
    let fits = |index: &pieces::Index| index.largest() <= MAX_PIECE;
    let (plain, access): (Arc<dyn Storage>, _) = match index.filter(fits) {
        Some(index) => {
            let access = Access::Index {
                pieces: index.len(),
            };
            (Arc::new(Pieces::new(storage, index)), access)
        }
        None => {
            let access = Access::TemporaryFile {
                folder: unpacking.folder.clone(),
            };
            (
                Arc::new(spool::unpack(storage, wrapper, unpacking)?),
                access,
            )
        }
    };
    if let Some(inner) = Wrapper::sniff(&*plain)? {
        return Err(
            Error::unsupported(format!("is wrapped twice, in {wrapper} and in {inner}"))
                .in_file(plain.name())
                .hint("unpack the outer one first"),
        );
    }
    let wrapping = Wrapping {
        wrapper,
        access,
        plain_size: plain.size(),
    };
    Ok((plain, wrapping))
}
