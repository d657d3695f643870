//! Writing `monolithicSparse` and `twoGbMaxExtentSparse`: growable files, alone or over a parent.
//!
//! VMware "Virtual Disk Format 5.0". Over a parent a unit of zeroes is stored as a "zeroed-grain"
//! table entry, which hides the parent and takes no room; the header is of version 2 then.

use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::sparse_file::{GRAIN, SparseFile, capacity, split};
use super::text::{DESCRIPTOR_SECTORS, ExtentLine, descriptor, embedded};
use super::{SECTOR, SPLIT, amount, extent_name, length};
use crate::create::TargetSpec;
use crate::options::VmdkOptions;
use crate::target::{Order, Payload, Placed, Target, TargetFiles, Written, empty};

/// A sparse image being written.
#[derive(Debug)]
pub(super) struct SparseTarget {
    /// The extents in order.
    files: Vec<SparseFile>,
    /// Where the guest's address space is cut into extents.
    every: NonZeroU64,
    descriptor: Descriptor,
    size: u64,
    over: Over,
}

/// Where the descriptor goes.
#[derive(Debug)]
enum Descriptor {
    /// Into the only extent.
    Embedded(Vec<u8>),
    /// Into a file of its own.
    Beside(Arc<dyn StorageMut>, Vec<u8>),
}

/// What a unit that was never put reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Zeroes,
    AParent,
}

impl SparseTarget {
    /// An empty `monolithicSparse` image on `storage`.
    ///
    /// # Errors
    /// Usage for a size, name or parent that cannot be; Io when the storage fails.
    pub(super) fn monolithic(
        spec: &TargetSpec,
        options: &VmdkOptions,
        storage: Arc<dyn StorageMut>,
    ) -> Result<Self> {
        let sectors = capacity(spec.size)?;
        let extent = ExtentLine {
            sectors,
            kind: "SPARSE",
            file: spec.name.clone(),
        };
        let text = embedded(descriptor(spec, options, "monolithicSparse", &[extent])?)?;
        Ok(Self {
            files: vec![SparseFile::create(storage, sectors, DESCRIPTOR_SECTORS)?],
            every: NonZeroU64::MAX,
            descriptor: Descriptor::Embedded(text),
            size: sectors.saturating_mul(SECTOR),
            over: over(spec),
        })
    }

    /// An empty `twoGbMaxExtentSparse` image whose descriptor is `storage`.
    ///
    /// # Errors
    /// As [`SparseTarget::monolithic`], and what `files` gives.
    pub(super) fn split(
        spec: &TargetSpec,
        options: &VmdkOptions,
        storage: Arc<dyn StorageMut>,
        files: &dyn TargetFiles,
    ) -> Result<Self> {
        let size = capacity(spec.size)?.saturating_mul(SECTOR);
        let extents: Vec<ExtentLine> = split(0, size, SPLIT)
            .into_iter()
            .map(|(nth, _, len)| ExtentLine {
                sectors: len / SECTOR,
                kind: "SPARSE",
                file: extent_name(&spec.name, 's', nth),
            })
            .collect();
        let text = descriptor(spec, options, "twoGbMaxExtentSparse", &extents)?;
        empty(&*storage)?;
        let files = extents
            .iter()
            .map(|extent| SparseFile::create(files.create(&extent.file)?, extent.sectors, 0))
            .collect::<Result<_>>()?;
        Ok(Self {
            files,
            every: SPLIT,
            descriptor: Descriptor::Beside(storage, text.into_bytes()),
            size,
            over: over(spec),
        })
    }

    /// The extents under `len` bytes from `offset`.
    fn parts(&self, offset: u64, len: u64) -> Result<Vec<(&SparseFile, u64, u64)>> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.size) || offset % GRAIN != 0 {
            return Err(Error::usage("data lies outside the disk or off its grains").at(offset));
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

fn over(spec: &TargetSpec) -> Over {
    match spec.backing {
        None => Over::Zeroes,
        Some(_) => Over::AParent,
    }
}

impl Target for SparseTarget {
    fn unit(&self) -> NonZeroU64 {
        GRAIN
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        match payload {
            Payload::Plain(bytes) => {
                let mut rest = bytes;
                for (file, within, len) in self.parts(offset, amount(bytes.len()))? {
                    let (part, tail) = rest
                        .split_at_checked(length(len)?)
                        .ok_or_else(|| Error::internal("a payload shorter than its parts"))?;
                    file.put(within, part)?;
                    rest = tail;
                }
                Ok(())
            }
            // The last unit of the disk may be given whole.
            Payload::Zero(len) => {
                let len = len.min(self.size.saturating_sub(offset));
                let parts = self.parts(offset, len)?;
                if self.over == Over::Zeroes {
                    return Ok(());
                }
                parts
                    .into_iter()
                    .try_for_each(|(file, within, len)| file.zero(within, len))
            }
            Payload::Packed(_) => {
                Err(Error::internal("this target takes plain grains only").at(offset))
            }
        }
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        let len = len.min(self.size.saturating_sub(offset));
        match self.parts(offset, len)?.first() {
            None => Ok(None),
            Some((file, within, len)) => file.place(*within, *len).map(Some),
        }
    }

    fn publish(&self) -> Result<Written> {
        let mut file_bytes = 0u64;
        for file in &self.files {
            let text = match &self.descriptor {
                Descriptor::Embedded(text) => text.as_slice(),
                Descriptor::Beside(..) => &[],
            };
            file_bytes = file_bytes.saturating_add(file.finish(text)?);
        }
        for file in &self.files {
            file.write_header()?;
        }
        if let Descriptor::Beside(storage, text) = &self.descriptor {
            storage.write_at(text, 0)?;
            storage.sync()?;
            file_bytes = file_bytes.saturating_add(amount(text.len()));
        }
        Ok(Written {
            data_bytes: self
                .files
                .iter()
                .map(SparseFile::stored)
                .fold(0, u64::saturating_add),
            file_bytes,
        })
    }
}
