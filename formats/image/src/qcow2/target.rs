//! `Qcow2Target`: an image being written, payloads in any order from many threads.
//!
//! Only the first cluster makes the file a qcow2 image, and it is written last, after everything
//! else is on stable storage. A payload takes its room and its table entries under a short lock;
//! bytes are written outside of it, plain payloads in one piece.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Result, StorageMut, fill_holes, is_zero};

use super::allocator::Allocator;
use super::create::Design;
use super::entry::{COMPRESSED, COPIED, Geometry, Raw, SUBCLUSTERS, ZERO, packed_split};
use super::kept::{self, KeptBitmap};
use super::mapping::Mapping;
use super::new_header::Places;
use super::packer::Packer;
use super::refcount;
use crate::{Compat, Order, Payload, Placed, Preallocation, Target, Written};

/// An image being written.
pub(super) struct Qcow2Target {
    storage: Arc<dyn StorageMut>,
    /// Where the guest's data goes, each cluster at its own offset, if not into `storage`.
    data: Option<Arc<dyn StorageMut>>,
    design: Design,
    geometry: Geometry,
    size: u64,
    packer: Option<Packer>,
    bitmaps: Vec<KeptBitmap>,
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
            .field("data", &self.data)
            .field("design", &self.design)
            .field("packer", &self.packer)
            .finish_non_exhaustive()
    }
}

impl Qcow2Target {
    /// Begins an image on `storage`, its data in `data` where there is such a file.
    pub(super) fn new(
        design: Design,
        packer: Option<Packer>,
        bitmaps: Vec<KeptBitmap>,
        storage: Arc<dyn StorageMut>,
        data: Option<Arc<dyn StorageMut>>,
    ) -> Result<Self> {
        let geometry = design.geometry;
        let size = design.header.size;
        // Whatever was there (a device may hold an older image) is no image from here on.
        storage.zero_at(0, geometry.cluster_size())?;
        if let Some(data) = &data {
            data.set_size(size.next_multiple_of(512))?;
        }
        Ok(Self {
            state: Mutex::new(State {
                allocator: Allocator::new(geometry, design.header.refcount_order),
                mapping: Mapping::new(geometry, size, Arc::clone(&storage)),
                data_bytes: 0,
                published: false,
            }),
            storage,
            data,
            geometry,
            size,
            packer,
            bitmaps,
            design,
            failed: AtomicBool::new(false),
        })
    }

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

    /// Room and table entries for `count` clusters from the one at `offset`, in one piece; `bitmap`
    /// is that of each, where entries are extended.
    fn allot(&self, offset: u64, count: u64, len: u64, bitmap: u64) -> Result<u64> {
        let state = &mut *self.state();
        let place = match self.data {
            Some(_) => offset,
            None => state.allocator.whole(count)?,
        };
        let entry = Raw {
            descriptor: place | COPIED,
            bitmap,
        };
        let step = self.geometry.cluster_size();
        state
            .mapping
            .set(offset, count, entry, step, &mut state.allocator)?;
        state.data_bytes = state.data_bytes.saturating_add(len);
        Ok(place)
    }

    /// Where plain clusters are stored.
    fn ground(&self) -> &Arc<dyn StorageMut> {
        self.data.as_ref().unwrap_or(&self.storage)
    }

    /// Makes the part of the last cluster that the disk does not reach zeroes: a device holds old
    /// bytes there.
    fn clear_tail(&self, place: u64, count: u64, len: u64) -> Result<()> {
        let whole = count.saturating_mul(self.geometry.cluster_size());
        let tail = whole.saturating_sub(len);
        // A data file ends with the disk.
        if tail > 0 && self.data.is_none() {
            self.storage.zero_at(place.saturating_add(len), tail)?;
        }
        Ok(())
    }

    fn put_plain(&self, offset: u64, plain: &[u8]) -> Result<()> {
        let len = amount(plain.len());
        let count = self.clusters(offset, len)?;
        if count == 0 {
            return Ok(());
        }
        if self.geometry.extended() {
            return self.put_subclusters(offset, plain);
        }
        let place = self.allot(offset, count, len, 0)?;
        self.ground().write_at(plain, place)?;
        self.clear_tail(place, count, len)
    }

    /// Each cluster by itself: subclusters of zeroes are marked so, and not written.
    fn put_subclusters(&self, offset: u64, plain: &[u8]) -> Result<()> {
        let cluster = length(self.geometry.cluster_size());
        let part = cluster.div_ceil(length(SUBCLUSTERS.into()));
        let mut at = offset;
        for plain in plain.chunks(cluster) {
            let len = amount(plain.len());
            let (mut stored, mut zero) = (0u64, 0u64);
            for (index, bytes) in (0..SUBCLUSTERS).zip(plain.chunks(part)) {
                let bit = 1u64.checked_shl(index).unwrap_or(0);
                *(if is_zero(bytes) {
                    &mut zero
                } else {
                    &mut stored
                }) |= bit;
            }
            // What the disk does not reach of its last cluster.
            let reached = stored | zero;
            stored |= u64::from(u32::MAX) & !reached;
            let place = self.allot(at, 1, len, stored | (zero << 32))?;
            let mut host = place;
            for (index, bytes) in (0..SUBCLUSTERS).zip(plain.chunks(part)) {
                // Over a device or a shared data file even a zero subcluster's room is cleared.
                if stored & 1u64.checked_shl(index).unwrap_or(0) != 0 {
                    self.ground().write_at(bytes, host)?;
                } else if self.data.is_none() {
                    self.ground().zero_at(host, amount(bytes.len()))?;
                }
                host = host.saturating_add(amount(bytes.len()));
            }
            self.clear_tail(place, 1, len)?;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    /// Zeroes that hide a parent: a flag, or in version 2, which has none, clusters of zeroes.
    fn put_zero(&self, offset: u64, len: u64) -> Result<()> {
        let count = self.clusters(offset, len)?;
        if self.design.header.backing.is_none() || count == 0 {
            return Ok(());
        }
        if self.design.header.compat == Compat::V2 {
            let place = self.allot(offset, count, 0, 0)?;
            let bytes = count.saturating_mul(self.geometry.cluster_size());
            return self.storage.zero_at(place, bytes);
        }
        let entry = if self.geometry.extended() {
            Raw {
                descriptor: 0,
                bitmap: u64::from(u32::MAX) << 32,
            }
        } else {
            Raw {
                descriptor: ZERO,
                bitmap: 0,
            }
        };
        let state = &mut *self.state();
        state
            .mapping
            .set(offset, count, entry, 0, &mut state.allocator)
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
                let entry = Raw {
                    descriptor: entry,
                    bitmap: if entry & COMPRESSED == 0 && self.geometry.extended() {
                        u32::MAX.into()
                    } else {
                        0
                    },
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
        if self.design.map_all {
            let clusters = self.size.div_ceil(self.geometry.cluster_size());
            let outside = self.data.is_some();
            let place = |allocator: &mut Allocator, offset, count| {
                if outside {
                    Ok(offset)
                } else {
                    allocator.whole(count)
                }
            };
            state
                .mapping
                .set_rest(clusters, &mut state.allocator, place)?;
        }
        let (l1_offset, l1_entries) = state.mapping.publish(&mut state.allocator)?;
        let bitmaps = kept::publish(
            &self.bitmaps,
            &self.geometry,
            &mut state.allocator,
            &*self.storage,
        )?;
        let (refcount_offset, refcount_clusters) = refcount::publish(
            &self.geometry,
            self.design.header.refcount_order,
            &mut state.allocator,
            &*self.storage,
        )?;
        // The last cluster may be written in part only, and must be there in whole.
        let end = state.allocator.end();
        self.storage.set_size(end)?;
        self.preallocate(&*self.storage, end)?;
        self.storage.sync()?;
        let mut file_bytes = end;
        if let Some(data) = &self.data {
            let size = self.size.next_multiple_of(512);
            self.preallocate(&**data, size)?;
            data.sync()?;
            file_bytes = file_bytes.saturating_add(size);
        }
        let header = self.design.header.encode(Places {
            bitmaps,
            l1_offset,
            l1_entries,
            refcount_offset,
            refcount_clusters,
        });
        self.storage.write_at(&header, 0)?;
        self.storage.sync()?;
        state.published = true;
        Ok(Written {
            data_bytes: state.data_bytes,
            file_bytes,
        })
    }

    fn preallocate(&self, storage: &dyn StorageMut, size: u64) -> Result<()> {
        match self.design.preallocation {
            Preallocation::Off | Preallocation::Metadata => Ok(()),
            Preallocation::Falloc => storage.reserve(0, size),
            Preallocation::Full => fill_holes(storage, 0, size),
        }
    }
}

impl Target for Qcow2Target {
    fn unit(&self) -> NonZeroU64 {
        self.geometry.unit()
    }

    /// Ascending when compressed: packed and whole clusters then share the room, and only one order
    /// always gives the same file, as long as `measure` says.
    fn order(&self) -> Order {
        if self.packer.is_some() {
            Order::Ascending
        } else {
            Order::Any
        }
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
            Payload::Zero(len) => self.put_zero(offset, len),
        })
    }

    fn place(&self, offset: u64, len: u64) -> Result<Option<Placed>> {
        if self.packer.is_some() {
            return Ok(None);
        }
        self.noted((|| {
            let count = self.clusters(offset, len)?;
            if count == 0 {
                return Ok(None);
            }
            let bitmap = if self.geometry.extended() {
                u32::MAX.into()
            } else {
                0
            };
            let place = self.allot(offset, count, len, bitmap)?;
            self.clear_tail(place, count, len)?;
            Ok(Some(Placed {
                storage: Arc::clone(self.ground()),
                offset: place,
                len,
            }))
        })())
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
