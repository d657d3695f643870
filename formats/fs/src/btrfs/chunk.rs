//! Chunks: which devices hold a range of logical addresses, and how.
//!
//! Source: btrfs.readthedocs.io, "On-disk Format", "Chunk item", and "Block group profiles". RAID5 and RAID6
//! are read from their data stripes; a member that is missing is not computed from parity.

use std::collections::BTreeMap;

use rehost_block::{Error, Fields, Result};

use super::superblock::HINT;
use crate::number::{div, rem};

/// `BTRFS_STRIPE_LEN`, the only length of stripes that exists.
const STRIPE: u64 = 64 << 10;

/// Chunks of one filesystem, at most. Ours: one per GiB of 64 PiB would be fewer.
const MOST_CHUNKS: usize = 1 << 20;

/// What a chunk is used for: bits of `type`.
pub(super) mod usage {
    pub(in super::super) const DATA: u64 = 1;
    pub(in super::super) const SYSTEM: u64 = 2;
    pub(in super::super) const METADATA: u64 = 4;
}

/// How a chunk is spread over its stripes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Every stripe is a whole copy: single, DUP, RAID1, RAID1C3, RAID1C4.
    Copies,
    Raid0,
    /// Neighbouring pairs of stripes are copies.
    Raid10,
    /// With so many stripes of parity.
    Parity(u64),
}

/// A stripe's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of the device.
    pub(super) device: u64,
    /// Byte offset on it.
    pub(super) offset: u64,
}

/// A part of an address range that lies in one piece on its devices.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) len: u64,
    /// Where it is; every place holds the same.
    pub(super) copies: Vec<Place>,
}

/// A chunk.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) logical: u64,
    pub(super) len: u64,
    pub(super) usage: u64,
    pub(super) profile: Profile,
    /// With the UUID of the device.
    pub(super) stripes: Vec<(Place, [u8; 16])>,
}

impl Chunk {
    /// Bytes of the item with `stripes` stripes.
    pub(super) fn size(stripes: u16) -> usize {
        usize::from(stripes).saturating_mul(32).saturating_add(48)
    }

    /// The item of the chunk at `logical`.
    pub(super) fn parse(f: &Fields<'_>, at: usize, logical: u64, sector: u32) -> Result<Self> {
        let field = |offset: usize| at.saturating_add(offset);
        let len = f.u64_le(field(0))?;
        let sector = u64::from(sector);
        if len == 0
            || rem(len, sector) != 0
            || rem(logical, sector) != 0
            || logical.checked_add(len).is_none()
        {
            return Err(f
                .corrupt(field(0), "chunk has an impossible length or address")
                .mismatch(
                    format!("multiples of {sector}"),
                    format!("{len} at {logical}"),
                ));
        }
        let stripe_len = f.u64_le(field(16))?;
        if stripe_len != STRIPE {
            return Err(f
                .corrupt(field(16), "chunk has an impossible stripe length")
                .mismatch(STRIPE, stripe_len));
        }
        let kind = f.u64_le(field(24))?;
        let usage = kind & 7;
        if usage == 0 {
            return Err(f.corrupt(field(24), "chunk is for neither data nor metadata"));
        }
        let count = f.u16_le(field(44))?;
        let (profile, fits) = match kind >> 3 {
            0 => (Profile::Copies, count == 1),
            1 => (Profile::Raid0, count >= 1),
            2 | 4 => (Profile::Copies, count == 2),
            8 => (
                Profile::Raid10,
                count >= 2 && count.is_multiple_of(2) && f.u16_le(field(46))? == 2,
            ),
            16 => (Profile::Parity(1), count >= 2),
            32 => (Profile::Parity(2), count >= 3),
            64 => (Profile::Copies, count == 3),
            128 => (Profile::Copies, count == 4),
            _ => {
                return Err(f.unsupported(
                    field(24),
                    format!("chunk has a profile unknown to this program ({kind:#x})"),
                ));
            }
        };
        if !fits {
            return Err(f
                .corrupt(field(44), "chunk has an impossible number of stripes")
                .mismatch(format!("one that fits type {kind:#x}"), count));
        }
        let mut stripes = Vec::new();
        for nth in 0..count {
            let stripe = at.saturating_add(Self::size(nth));
            let place = Place {
                device: f.u64_le(stripe)?,
                offset: f.u64_le(stripe.saturating_add(8))?,
            };
            stripes.push((place, f.array(stripe.saturating_add(16))?));
        }
        let chunk = Self {
            logical,
            len,
            usage,
            profile,
            stripes,
        };
        // So that no address of the chunk leaves the address space of a device.
        let on_device = div(len, chunk.data_stripes()).saturating_add(STRIPE);
        if chunk
            .stripes
            .iter()
            .any(|(place, _)| place.offset.checked_add(on_device).is_none())
        {
            return Err(f.corrupt(field(48), "stripe reaches past the address space"));
        }
        Ok(chunk)
    }

    /// Stripes that hold different bytes; at least 1.
    pub(super) fn data_stripes(&self) -> u64 {
        let count = crate::number::wide(self.stripes.len());
        match self.profile {
            Profile::Copies => 1,
            Profile::Raid0 => count,
            Profile::Raid10 => div(count, 2),
            Profile::Parity(parity) => count.saturating_sub(parity),
        }
        .max(1)
    }

    /// Where the bytes at `within` the chunk are, and for how many bytes that holds.
    fn piece(&self, within: u64, want: u64) -> Piece {
        let left = self.len.saturating_sub(within).min(want);
        let place = |nth: u64, offset: u64| {
            let stripe = self.stripes.get(usize::try_from(nth).unwrap_or(usize::MAX));
            stripe.map(|(place, _)| Place {
                device: place.device,
                offset: place.offset.saturating_add(offset),
            })
        };
        let count = crate::number::wide(self.stripes.len());
        if self.profile == Profile::Copies {
            let copies = (0..count).filter_map(|nth| place(nth, within)).collect();
            return Piece { len: left, copies };
        }
        let stripe = div(within, STRIPE);
        let inside = rem(within, STRIPE);
        let wide = self.data_stripes();
        let (row, column) = (div(stripe, wide), rem(stripe, wide));
        let offset = row.saturating_mul(STRIPE).saturating_add(inside);
        let copies = match self.profile {
            Profile::Copies | Profile::Raid0 => place(column, offset).into_iter().collect(),
            Profile::Raid10 => {
                let first = column.saturating_mul(2);
                [first, first.saturating_add(1)]
                    .into_iter()
                    .filter_map(|nth| place(nth, offset))
                    .collect()
            }
            // Every row begins one device further on.
            Profile::Parity(_) => {
                let nth = rem(row.saturating_add(column), count);
                place(nth, offset).into_iter().collect()
            }
        };
        Piece {
            len: left.min(STRIPE.saturating_sub(inside)),
            copies,
        }
    }

    /// The UUID of a device without which a part of the chunk cannot be read, with its number.
    pub(super) fn lacks(&self, there: &dyn Fn(u64) -> bool) -> Option<(u64, [u8; 16])> {
        let absent = |(place, uuid): &(Place, [u8; 16])| {
            (!there(place.device)).then_some((place.device, *uuid))
        };
        let group = match self.profile {
            Profile::Copies => self.stripes.len(),
            Profile::Raid10 => 2,
            Profile::Raid0 | Profile::Parity(_) => 1,
        };
        self.stripes
            .chunks(group.max(1))
            .find(|copies| copies.iter().all(|copy| absent(copy).is_some()))
            .and_then(|copies| copies.first())
            .and_then(absent)
    }
}

/// All chunks, by logical address.
#[derive(Debug, Default)]
pub(super) struct ChunkMap {
    chunks: BTreeMap<u64, Chunk>,
}

impl ChunkMap {
    /// Adds a chunk; one that is there already must be the same.
    pub(super) fn insert(&mut self, chunk: Chunk, f: &Fields<'_>, at: usize) -> Result<()> {
        let end = chunk.logical.saturating_add(chunk.len);
        let clash = self
            .chunks
            .range(..end)
            .next_back()
            .is_some_and(|(_, other)| {
                other.logical.saturating_add(other.len) > chunk.logical
                    && (other.logical, other.len) != (chunk.logical, chunk.len)
            });
        if clash {
            return Err(f.corrupt(at, "chunks overlap").hint(HINT));
        }
        if self.chunks.len() >= MOST_CHUNKS {
            return Err(f.unsupported(at, format!("more than {MOST_CHUNKS} chunks")));
        }
        self.chunks.insert(chunk.logical, chunk);
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.values()
    }

    /// The chunk with byte `logical` of the address space.
    pub(super) fn at(&self, logical: u64) -> Option<&Chunk> {
        let (_, chunk) = self.chunks.range(..=logical).next_back()?;
        (logical < chunk.logical.saturating_add(chunk.len)).then_some(chunk)
    }

    /// Where the first of `want` bytes at `logical` are.
    pub(super) fn piece(&self, logical: u64, want: u64) -> Result<Piece> {
        let chunk = self.at(logical).ok_or_else(|| {
            Error::corrupt(format!("no chunk holds logical address {logical}"))
                .in_structure("chunk tree")
                .hint(HINT)
        })?;
        Ok(chunk.piece(logical.saturating_sub(chunk.logical), want))
    }
}

/// The chunks in the superblock, which hold the chunk tree.
pub(super) fn system_chunks(raw: &[u8], place: u64, sector: u32) -> Result<ChunkMap> {
    let f = Fields::new(raw, "system chunk array", place);
    let mut map = ChunkMap::default();
    let mut at = 0usize;
    // Ends because every round takes at least a key and a chunk with no stripes.
    while at < raw.len() {
        let key = super::key::Key::parse(&f, at)?;
        if !key.is(super::key::FIRST_CHUNK_TREE, super::key::kind::CHUNK_ITEM) {
            return Err(f.corrupt(at, "holds something that is not a chunk"));
        }
        let item = at.saturating_add(super::key::KEY);
        let chunk = Chunk::parse(&f, item, key.offset, sector)?;
        if chunk.usage & usage::SYSTEM == 0 {
            return Err(f.corrupt(item.saturating_add(24), "holds a chunk not of the system"));
        }
        at = item.saturating_add(Chunk::size(
            u16::try_from(chunk.stripes.len()).unwrap_or(u16::MAX),
        ));
        map.insert(chunk, &f, item)?;
    }
    Ok(map)
}
