//! `Target`: an image being written, in two phases, so that a killed run leaves nothing that could
//! be mistaken for a finished image.
//!
//! The copy engine cuts the guest's address space at multiples of [`Target::unit`], leaves out what
//! reads as zero, calls [`Target::pack`] from many threads (the work that costs processor time),
//! and [`Target::put`] from many threads too, or in ascending order where the format asks for that.
//! [`Target::publish`] then writes the structures that make the file an image.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};
use serde::Serialize;

/// In which order a target takes its payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any order, from many threads at once.
    Any,
    /// Guest offsets ascending, one at a time.
    Ascending,
}

/// What `put` stores.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Guest bytes as they are.
    Plain(&'a [u8]),
    /// The stored form of each unit in turn; an empty one is a unit of zeroes, a borrowed one is
    /// stored as it is.
    Packed(Vec<Cow<'a, [u8]>>),
    /// So many guest bytes of zeroes, in whole units. Only of use over a parent, which would shine
    /// through units that were never put; other targets store nothing for it.
    Zero(u64),
}

/// Room in a file of the target, in one piece.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The file.
    pub storage: Arc<dyn StorageMut>,
    /// Where the room begins in it, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: at least one unit, at most what was asked for.
    pub len: u64,
}

/// Makes the further files of a target: extents, a data file.
pub trait TargetFiles: Send + Sync + fmt::Debug {
    /// An empty file that will be called `name` beside the image.
    ///
    /// # Errors
    /// Usage when `name` exists and must be kept; Io when it cannot be made.
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>>;
}

/// For targets that are one file: none can be made.
#[derive(Debug, Clone, Copy)]
pub struct OneFile;

impl TargetFiles for OneFile {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        Err(
            Error::usage(format!("no further file {name:?} can be made here"))
                .hint("choose a kind of image that is one file"),
        )
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Guest-visible bytes that are stored.
    pub data_bytes: u64,
    /// Length of the image in bytes, all its files together.
    pub file_bytes: u64,
}

/// An image being written. Offsets and lengths are the guest's, in bytes.
pub trait Target: Send + Sync + fmt::Debug {
    /// Guest bytes per allocation unit (cluster, grain, block). Payloads begin at multiples of it
    /// and cover whole units, but for the last one of the disk.
    fn unit(&self) -> NonZeroU64;

    /// In which order payloads must come.
    fn order(&self) -> Order;

    /// Turns guest bytes at `offset` into what [`Target::put`] takes. Costs processor time only.
    ///
    /// # Errors
    /// Internal when the codec fails.
    fn pack<'a>(&self, offset: u64, plain: &'a [u8]) -> Result<Payload<'a>> {
        let _ = offset;
        Ok(Payload::Plain(plain))
    }

    /// Allocates room and stores `payload`. Each unit is put at most once; units never put read as
    /// zeroes, or as the parent where there is one.
    ///
    /// # Errors
    /// Io when the storage fails; Usage when a unit lies past the end of the disk.
    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()>;

    /// Allocates room for the guest bytes `offset..offset + len` (whole units, plainly stored, in
    /// one piece), as much of it as it likes, and says where. The caller then fills all of that
    /// room itself, by sharing blocks with the source or by writing, and does not put those units.
    /// `None`: the target stores nothing plainly, or not in a way that can be shared.
    ///
    /// # Errors
    /// As [`Target::put`].
    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        let _ = (offset, len);
        Ok(None)
    }

    /// Writes what makes the file an image, and returns once it is on stable storage.
    ///
    /// # Errors
    /// Io when the storage fails. The target stays recognisably incomplete then.
    fn publish(&self) -> Result<Written>;
}

/// Cuts what is in `storage`, if there is anything. Not done to a new file: ext4 takes a cut to
/// nothing for the start of a rewrite and writes all of it out when the file is closed.
pub(crate) fn empty(storage: &dyn StorageMut) -> Result<()> {
    if storage.size() == 0 {
        return Ok(());
    }
    storage.set_size(0)
}
