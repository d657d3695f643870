//! Writing `monolithicFlat` and `twoGbMaxExtentFlat`: the guest's bytes as they are, in files beside
//! a descriptor, which comes last.
//!
//! VMware "Virtual Disk Format 5.0", "Simple Extents". What is never put is a hole.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rehost_block::{Error, Result, StorageMut};

use super::sparse_file::split;
use super::text::{ExtentLine, descriptor};
use super::{SECTOR, SPLIT, amount, extent_name, length, stem};
use crate::create::TargetSpec;
use crate::options::VmdkOptions;
use crate::target::{Order, Payload, Placed, Target, TargetFiles, Written, empty};

/// Bytes per unit: a page, below which file systems have no holes.
const UNIT: NonZeroU64 = NonZeroU64::new(4096).unwrap();

/// The largest disk. VMware's limit is 62 TiB; this is the largest file of Linux.
const MAX_SIZE: u64 = i64::MAX.unsigned_abs() / SECTOR * SECTOR;

/// A flat image being written.
#[derive(Debug)]
pub(super) struct FlatTarget {
    storage: Arc<dyn StorageMut>,
    descriptor: Vec<u8>,
    /// The extents in order.
    files: Vec<Arc<dyn StorageMut>>,
    /// Where the guest's address space is cut into extents.
    every: NonZeroU64,
    size: u64,
    stored: AtomicU64,
}

/// Extents, with an offset in each and a length.
type Parts<'a> = Vec<(&'a Arc<dyn StorageMut>, u64, u64)>;

/// How many files the guest's bytes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// One: `NAME-flat.vmdk`.
    One,
    /// One for every 2047 MiB: `NAME-f001.vmdk` and so on.
    Split,
}

impl FlatTarget {
    /// An empty image whose descriptor is `storage`.
    ///
    /// # Errors
    /// Usage for a size or name that cannot be; Io when the storage fails, and what `files` gives.
    pub(super) fn create(
        spec: &TargetSpec,
        options: &VmdkOptions,
        kind: Files,
        storage: Arc<dyn StorageMut>,
        files: &dyn TargetFiles,
    ) -> Result<Self> {
        if spec.size == 0 || spec.size > MAX_SIZE {
            return Err(Error::usage("size cannot be that of a flat VMDK")
                .mismatch(format!("1 to {MAX_SIZE} bytes"), spec.size));
        }
        let size = spec.size.next_multiple_of(SECTOR);
        let (every, create_type) = match kind {
            Files::One => (NonZeroU64::MAX, "monolithicFlat"),
            Files::Split => (SPLIT, "twoGbMaxExtentFlat"),
        };
        let extents: Vec<ExtentLine> = split(0, size, every)
            .into_iter()
            .map(|(nth, _, len)| ExtentLine {
                sectors: len / SECTOR,
                kind: "FLAT",
                file: match kind {
                    Files::One => format!("{}-flat.vmdk", stem(&spec.name)),
                    Files::Split => extent_name(&spec.name, 'f', nth),
                },
            })
            .collect();
        let text = descriptor(spec, options, create_type, &extents)?;
        empty(&*storage)?;
        let mut made = Vec::new();
        for extent in &extents {
            let file = files.create(&extent.file)?;
            empty(&*file)?;
            file.set_size(extent.sectors.saturating_mul(SECTOR))?;
            made.push(file);
        }
        Ok(Self {
            storage,
            descriptor: text.into_bytes(),
            files: made,
            every,
            size,
            stored: AtomicU64::new(0),
        })
    }

    /// The extents under `len` bytes from `offset`.
    fn parts(&self, offset: u64, len: u64) -> Result<Parts<'_>> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.size) {
            return Err(Error::usage("data lies past the end of the disk").at(offset));
        }
        split(offset, len, self.every)
            .into_iter()
            .map(|(nth, within, len)| {
                let file = self.files.get(nth);
                file.map(|file| (file, within, len))
                    .ok_or_else(|| Error::internal("a disk with an extent too few").at(offset))
            })
            .collect()
    }
}

impl Target for FlatTarget {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        let bytes = match payload {
            Payload::Plain(bytes) => bytes,
            Payload::Zero(_) => return Ok(()),
            Payload::Packed(_) => {
                return Err(Error::internal("this target takes plain bytes only").at(offset));
            }
        };
        let len = amount(bytes.len());
        let mut rest = bytes;
        for (file, within, len) in self.parts(offset, len)? {
            let (part, tail) = rest
                .split_at_checked(length(len)?)
                .ok_or_else(|| Error::internal("a payload shorter than its parts"))?;
            file.write_at(part, within)?;
            rest = tail;
        }
        self.stored.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        let len = len.min(self.size.saturating_sub(offset));
        Ok(self.parts(offset, len)?.first().map(|(file, within, len)| {
            self.stored.fetch_add(*len, Ordering::Relaxed);
            Placed {
                storage: Arc::clone(file),
                offset: *within,
                len: *len,
            }
        }))
    }

    fn publish(&self) -> Result<Written> {
        for file in &self.files {
            file.sync()?;
        }
        self.storage.write_at(&self.descriptor, 0)?;
        self.storage.sync()?;
        Ok(Written {
            data_bytes: self.stored.load(Ordering::Relaxed),
            file_bytes: self.size.saturating_add(amount(self.descriptor.len())),
        })
    }
}
