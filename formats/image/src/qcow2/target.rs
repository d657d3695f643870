//! `Qcow2Target`: a version 3 image being written, payloads in any order from many threads.
//!
//! Only the first cluster makes the file a qcow2 image, and it is written last, after everything
//! else is on stable storage. A payload takes its room and its table entries under a short lock;
//! bytes are written outside of it, plain payloads in one piece.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Result, StorageMut};

use super::CompressionType;
use super::allocator::Allocator;
use super::entry::{COMPRESSED, COPIED, Geometry, packed_split};
use super::header::{self, MAX_L1_BYTES};
use super::mapping::Mapping;
use super::packer::Packer;
use super::refcount;
use crate::{Order, Payload, Qcow2Options, Target, TargetSpec, Written};

/// QEMU's default.
const DEFAULT_CLUSTER: u32 = 64 << 10;

/// An image being written.
pub(super) struct Qcow2Target {
    storage: Arc<dyn StorageMut>,
    geometry: Geometry,
    size: u64,
    packer: Option<Packer>,
    state: Mutex<State>,
    /// Set for good when anything failed: such an image is never published.
    failed: AtomicBool,
}

#[derive(Debug)]
struct State {
    allocator: Allocator,
    mapping: Mapping,
    data_bytes: u64,
    published: bool,
}

impl fmt::Debug for Qcow2Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2Target")
            .field("storage", &self.storage)
            .field("geometry", &self.geometry)
            .field("size", &self.size)
            .field("packer", &self.packer)
            .finish_non_exhaustive()
    }
}

/// Begins an image as `spec` asks for.
pub(super) fn create(
    spec: &TargetSpec,
    options: &Qcow2Options,
    storage: Arc<dyn StorageMut>,
) -> Result<Qcow2Target> {
    spec.refuse_backing("qcow2 targets")?;
    let plain = Qcow2Options {
        cluster_size: options.cluster_size,
        ..Qcow2Options::default()
    };
    if *options != plain {
        return Err(Error::unsupported(
            "of qcow2's options only cluster_size can be chosen",
        ));
    }
    let cluster = options.cluster_size.unwrap_or(DEFAULT_CLUSTER);
    let geometry = Some(cluster.trailing_zeros())
        .filter(|bits| cluster.is_power_of_two() && (9..=21).contains(bits))
        .and_then(|bits| Geometry::new(bits, false))
        .ok_or_else(|| {
            Error::usage("qcow2 has no clusters of this size")
                .mismatch("a power of two from 512 to 2097152", cluster)
        })?;
    let l1_entries = geometry.l1_entries(spec.size);
    if l1_entries.saturating_mul(8) > MAX_L1_BYTES {
        return Err(Error::usage("disk is too large for this cluster size")
            .mismatch(
                format!(
                    "at most {} bytes",
                    geometry.l2_span().saturating_mul(MAX_L1_BYTES / 8)
                ),
                spec.size,
            )
            .hint("choose larger clusters"));
    }
    // Were every cluster stored, the refcounts would still have to fit.
    let most = spec
        .size
        .div_ceil(geometry.cluster_size())
        .saturating_add(l1_entries.saturating_mul(2))
        .saturating_add(2);
    refcount::Layout::new(&geometry, most)?;
    let packer = spec
        .compression
        .map(|compression| Packer::new(compression, length(geometry.cluster_size())))
        .transpose()?;
    // Whatever was there (a device may hold an older image) is no image from here on.
    storage.zero_at(0, geometry.cluster_size())?;
    Ok(Qcow2Target {
        state: Mutex::new(State {
            allocator: Allocator::new(geometry),
            mapping: Mapping::new(geometry, spec.size, Arc::clone(&storage)),
            data_bytes: 0,
            published: false,
        }),
        storage,
        geometry,
        size: spec.size,
        packer,
        failed: AtomicBool::new(false),
    })
}

impl Qcow2Target {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the image as failed for good when `result` is an error.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        result
    }

    /// Clusters that `len` bytes at `offset` cover, which must be whole ones of this disk.
    fn clusters(&self, offset: u64, len: u64) -> Result<u64> {
        let end = offset.saturating_add(len);
        let whole =
            self.geometry.is_aligned(offset) && (self.geometry.is_aligned(end) || end == self.size);
        if !whole || end > self.size {
            return Err(Error::usage("payload does not cover whole units of the disk").at(offset));
        }
        Ok(len.div_ceil(self.geometry.cluster_size()))
    }

    fn put_plain(&self, offset: u64, plain: &[u8]) -> Result<()> {
        let len = amount(plain.len());
        let count = self.clusters(offset, len)?;
        if count == 0 {
            return Ok(());
        }
        let step = self.geometry.cluster_size();
        let place = {
            let state = &mut *self.state();
            let place = state.allocator.whole(count)?;
            state
                .mapping
                .set(offset, count, place | COPIED, step, &mut state.allocator)?;
            state.data_bytes = state.data_bytes.saturating_add(len);
            place
        };
        self.storage.write_at(plain, place)?;
        // The disk's last cluster may be covered in part only: a device holds old bytes there.
        let tail = count.saturating_mul(step).saturating_sub(len);
        if tail > 0 {
            self.storage.zero_at(place.saturating_add(len), tail)?;
        }
        Ok(())
    }

    fn put_packed(&self, offset: u64, units: &[Cow<'_, [u8]>]) -> Result<()> {
        let size = self.geometry.cluster_size();
        let all = amount(units.len()).saturating_mul(size);
        // The last unit of the disk is stored whole and may reach past its end.
        self.clusters(offset, all.min(self.size.saturating_sub(offset)))?;
        let places = self.place(offset, units)?;

        // Packed units that lie together go out as one write; whole ones are long enough by
        // themselves. Ends with the units.
        let mut start = 0u64;
        let mut joined: Vec<u8> = Vec::new();
        for (unit, place) in units.iter().zip(places) {
            if amount(unit.len()) == size {
                self.flush(unit, place)?;
                continue;
            }
            if unit.is_empty() {
                continue;
            }
            if start.checked_add(amount(joined.len())) != Some(place) {
                self.flush(&joined, start)?;
                joined.clear();
                start = place;
            }
            joined.extend_from_slice(unit);
        }
        self.flush(&joined, start)
    }

    /// Room and table entries for each of `units`; zeroes get neither.
    fn place(&self, offset: u64, units: &[Cow<'_, [u8]>]) -> Result<Vec<u64>> {
        let size = self.geometry.cluster_size();
        let split = packed_split(size.trailing_zeros());
        let state = &mut *self.state();
        let mut places = Vec::with_capacity(units.len());
        let mut at = offset;
        for unit in units {
            let len = amount(unit.len());
            let mut place = 0;
            if len > 0 {
                let entry = if len < size {
                    place = state.allocator.packed(len)?;
                    let sectors = (place & 511).saturating_add(len).saturating_sub(1) / 512;
                    COMPRESSED | sectors.checked_shl(split).unwrap_or(0) | place
                } else if len == size {
                    place = state.allocator.whole(1)?;
                    COPIED | place
                } else {
                    return Err(Error::internal("a packed unit exceeds its cluster").at(at));
                };
                state.mapping.set(at, 1, entry, 0, &mut state.allocator)?;
                let stored = size.min(self.size.saturating_sub(at));
                state.data_bytes = state.data_bytes.saturating_add(stored);
            }
            places.push(place);
            at = at.saturating_add(size);
        }
        Ok(places)
    }

    fn flush(&self, bytes: &[u8], place: u64) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.storage.write_at(bytes, place)
    }

    fn write_structures(&self) -> Result<Written> {
        let state = &mut *self.state();
        if state.published {
            return Err(Error::usage("image is published already").in_file(self.storage.name()));
        }
        let (l1_offset, l1_entries) = state.mapping.publish(&mut state.allocator)?;
        let (refcount_offset, refcount_clusters) =
            refcount::publish(&self.geometry, &mut state.allocator, &*self.storage)?;
        // The last cluster may be written in part only, and must be there in whole.
        let end = state.allocator.end();
        self.storage.set_size(end)?;
        self.storage.sync()?;
        let header = header::New {
            // QEMU would cut off a last sector that is not whole.
            size: self.size.next_multiple_of(512),
            cluster_bits: self.geometry.cluster_size().trailing_zeros(),
            l1_offset,
            l1_entries,
            refcount_offset,
            refcount_clusters,
            compression: self
                .packer
                .as_ref()
                .map_or(CompressionType::Zlib, Packer::kind),
        };
        self.storage.write_at(&header.encode(), 0)?;
        self.storage.sync()?;
        state.published = true;
        Ok(Written {
            data_bytes: state.data_bytes,
            file_bytes: end,
        })
    }
}

impl Target for Qcow2Target {
    fn unit(&self) -> NonZeroU64 {
        self.geometry.unit()
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn pack<'a>(&self, offset: u64, plain: &'a [u8]) -> Result<Payload<'a>> {
        match &self.packer {
            Some(packer) => packer
                .pack(plain)
                .map(Payload::Packed)
                .map_err(|error| error.at(offset)),
            None => Ok(Payload::Plain(plain)),
        }
    }

    fn put(&self, offset: u64, payload: Payload<'_>) -> Result<()> {
        self.noted(match payload {
            Payload::Plain(plain) => self.put_plain(offset, plain),
            Payload::Packed(units) => self.put_packed(offset, &units),
            Payload::Zero(_) => Ok(()),
        })
    }

    fn publish(&self) -> Result<Written> {
        if self.failed.load(Ordering::SeqCst) {
            return Err(
                Error::usage("a write failed before: the image stays incomplete")
                    .in_file(self.storage.name()),
            );
        }
        self.noted(self.write_structures())
    }
}

/// A buffer's length as a byte count.
fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A cluster's size as a buffer's length: 2 MiB at most.
fn length(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
