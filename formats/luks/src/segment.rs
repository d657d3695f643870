//! Segments of the plain disk: which sector of the container is behind which byte.

use std::sync::Arc;

use rehost_block::{Error, Result};

use crate::cipher::{IV_UNIT, SectorCipher, SectorSize};
use crate::header::{Header, Segment};
use crate::unlock::VolumeKey;

/// A segment with its cipher, at its place on the plain disk.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Plain offset in bytes.
    start: u64,
    /// In bytes: whole sectors, at least one.
    len: u64,
    /// Offset in the container, in bytes.
    offset: u64,
    iv_tweak: u64,
    pub(crate) cipher: Arc<SectorCipher>,
}

/// A place on the plain disk: in which segment, and how far in.
pub(crate) struct Spot<'a> {
    pub(crate) segment: &'a Placed,
    /// Bytes from the segment's start.
    pub(crate) within: u64,
}

impl Spot<'_> {
    /// Bytes to the segment's end.
    pub(crate) fn left(&self) -> u64 {
        self.segment.len.saturating_sub(self.within)
    }

    /// The same, earlier or later in the segment.
    pub(crate) fn at(&self, within: u64) -> Self {
        Spot {
            segment: self.segment,
            within,
        }
    }

    pub(crate) fn in_container(&self) -> u64 {
        self.segment.offset.saturating_add(self.within)
    }

    /// What its sector's vector is made of.
    pub(crate) fn number(&self) -> u64 {
        // dm-crypt's counter wraps too.
        self.segment.iv_tweak.wrapping_add(self.within / IV_UNIT)
    }

    /// Bytes of its sector before it.
    pub(crate) fn in_sector(&self) -> u64 {
        self.sector_size().within(self.within)
    }

    pub(crate) fn sector_size(&self) -> SectorSize {
        self.segment.cipher.sector_size()
    }

    /// The start of its sector.
    pub(crate) fn sector_start(&self) -> Self {
        self.at(self.within.saturating_sub(self.in_sector()))
    }

    /// How many of `len` bytes from here are whole sectors of the segment; 0 where it begins with a
    /// part of one.
    pub(crate) fn whole_sectors(&self, len: u64) -> u64 {
        if self.in_sector() != 0 {
            return 0;
        }
        let len = len.min(self.left());
        len.saturating_sub(self.sector_size().within(len))
    }
}

/// The segment that byte `offset` of the plain disk is in.
pub(crate) fn find(segments: &[Placed], offset: u64) -> Option<Spot<'_>> {
    let after = segments.partition_point(|segment| segment.start <= offset);
    let segment = segments.get(after.checked_sub(1)?)?;
    let within = offset.checked_sub(segment.start)?;
    (within < segment.len).then_some(Spot { segment, within })
}

/// The segments one after the other, and their length together.
pub(crate) fn place(
    header: &Header,
    key: &VolumeKey,
    container: u64,
) -> Result<(Vec<Placed>, u64)> {
    header.check_usable()?;
    let mut placed = Vec::new();
    let mut start = 0u64;
    for segment in &header.segments {
        let len = segment_len(header, segment, container)?;
        if len == 0 {
            continue;
        }
        placed.push(Placed {
            start,
            len,
            offset: segment.offset,
            iv_tweak: segment.iv_tweak,
            cipher: Arc::new(header.cipher_of(segment, key)?),
        });
        start = start.saturating_add(len);
    }
    Ok((placed, start))
}

fn segment_len(header: &Header, segment: &Segment, container: u64) -> Result<u64> {
    if segment.offset == 0 {
        return Err(header.unusable("header is detached: its data is in another file"));
    }
    let room = container.checked_sub(segment.offset);
    let truncated = || {
        let end = segment.offset.saturating_add(segment.len.unwrap_or(0));
        Error::corrupt("container ends before its data does")
            .in_structure(header.structure())
            .at(segment.offset)
            .mismatch(format!("at least {end} bytes"), container)
    };
    let room = room.ok_or_else(truncated)?;
    match segment.len {
        Some(len) if len > room => Err(truncated()),
        Some(len) => Ok(len),
        None => Ok(room.saturating_sub(segment.sector.within(room))),
    }
}
