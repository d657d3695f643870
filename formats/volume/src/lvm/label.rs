//! What a physical volume says of itself: the label, the PV header and its metadata areas.
//!
//! After LVM2's `lib/format_text/layout.h` and the libvslvm documentation of the format. The label
//! is in one of the first four sectors; a metadata area begins with a header sector and is a ring
//! that the text may wrap around in.

use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

const SECTOR: u64 = 512;

/// LVM's start value for its CRC-32.
const CRC_START: u32 = 0xf597_a6cf;

/// Most bytes of metadata text. Ours: LVM's own default area is 1 MiB, and 16 MiB holds tens of
/// thousands of logical volumes.
const MOST_TEXT: u64 = 16 << 20;

/// Areas in the lists of a PV header. LVM writes at most two of either kind.
const MOST_AREAS: usize = 8;

/// A physical volume as its label describes it.
#[derive(Debug)]
pub(crate) struct Label {
    /// Its UUID: 32 letters, as stored.
    pub(crate) uuid: String,
    /// Size in bytes that it was made with; 0 means all of the device.
    pub(crate) size: u64,
    /// The copies of the group's metadata that could be read.
    pub(crate) texts: Vec<Text>,
    /// What is wrong with it.
    pub(crate) damage: Vec<String>,
}

/// One copy of the metadata.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) bytes: Vec<u8>,
    /// Where it begins on the disk, in bytes (it may wrap).
    pub(crate) at: u64,
}

/// LVM's checksum: a CRC-32 without the final inversion.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!CRC_START);
    hasher.update(bytes);
    !hasher.finalize()
}

fn read(disk: &Arc<dyn Disk>, at: u64, len: u64, what: &'static str) -> Result<Vec<u8>> {
    if at.checked_add(len).is_none_or(|end| end > disk.size()) {
        return Err(Error::corrupt("reaches past the end of the disk")
            .in_structure(what)
            .at(at)
            .mismatch(format!("an end of at most {}", disk.size()), len));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    disk.read_at(&mut bytes, at)?;
    Ok(bytes)
}

/// Reads the label of `disk`; `None` when there is none.
pub(crate) fn read_label(disk: &Arc<dyn Disk>) -> Result<Option<Label>> {
    for sector in 0..4u64 {
        let at = sector.saturating_mul(SECTOR);
        if at.saturating_add(SECTOR) > disk.size() {
            break;
        }
        let raw = read(disk, at, SECTOR, "LVM label")?;
        let f = Fields::new(&raw, "LVM label", at);
        if f.bytes(0, 8)? == b"LABELONE" && f.bytes(24, 8)? == b"LVM2 001" {
            return parse(disk, &f, sector).map(Some);
        }
    }
    Ok(None)
}

fn parse(disk: &Arc<dyn Disk>, f: &Fields<'_>, sector: u64) -> Result<Label> {
    if f.u64_le(8)? != sector {
        return Err(f
            .corrupt(8, "the label is not where it says")
            .mismatch(sector, f.u64_le(8)?));
    }
    let (stored, found) = (f.u32_le(16)?, checksum(f.bytes(20, 492)?));
    if stored != found {
        return Err(f
            .corrupt(16, "the label's checksum is wrong")
            .mismatch(format!("{stored:#010x}"), format!("{found:#010x}")));
    }
    let header = usize::try_from(f.u32_le(20)?)
        .map_err(|_| f.corrupt(20, "the PV header is outside the label's sector"))?;
    let uuid = f.bytes(header, 32)?;
    if !uuid.iter().all(|byte| byte.is_ascii_graphic()) {
        return Err(f.corrupt(header, "the UUID of the physical volume is not text"));
    }
    let mut label = Label {
        uuid: String::from_utf8_lossy(uuid).into_owned(),
        size: f.u64_le(header.saturating_add(32))?,
        texts: Vec::new(),
        damage: Vec::new(),
    };
    let mut at = header.saturating_add(40);
    let (_, next) = areas(f, at)?;
    at = next;
    let (metadata, _) = areas(f, at)?;
    for (start, len) in metadata {
        match area(disk, start, len) {
            Ok(text) => label.texts.extend(text),
            Err(error) => label
                .damage
                .push(format!("a metadata area cannot be used: {error}")),
        }
    }
    Ok(label)
}

/// A list of areas as pairs of offset and size, and where the next list begins.
fn areas(f: &Fields<'_>, from: usize) -> Result<(Vec<(u64, u64)>, usize)> {
    let mut found = Vec::new();
    let mut at = from;
    // Ends because `found` grows with every round and is bounded.
    loop {
        let (start, len) = (f.u64_le(at)?, f.u64_le(at.saturating_add(8))?);
        let next = at.saturating_add(16);
        if start == 0 {
            return Ok((found, next));
        }
        if found.len() >= MOST_AREAS {
            return Err(f.corrupt(at, "the PV header lists too many areas"));
        }
        found.push((start, len));
        at = next;
    }
}

/// The text of the metadata area at `start`; `None` where the area is unused or to be ignored.
fn area(disk: &Arc<dyn Disk>, start: u64, len: u64) -> Result<Option<Text>> {
    const NAME: &str = "LVM metadata area";
    let raw = read(disk, start, SECTOR, NAME)?;
    let f = Fields::new(&raw, NAME, start);
    if f.bytes(4, 16)? != b" LVM2 x[5A%r0N*>" {
        return Err(f.corrupt(4, "the area has no signature"));
    }
    let (stored, found) = (f.u32_le(0)?, checksum(f.bytes(4, 508)?));
    if stored != found {
        return Err(f
            .corrupt(0, "the area's checksum is wrong")
            .mismatch(format!("{stored:#010x}"), format!("{found:#010x}")));
    }
    if f.u32_le(20)? != 1 {
        return Err(f
            .unsupported(20, "unknown version of the metadata area")
            .mismatch(1, f.u32_le(20)?));
    }
    let size = f.u64_le(32)?;
    if f.u64_le(24)? != start || size < 2 * SECTOR || len != 0 && size > len {
        return Err(f.corrupt(24, "the area is not where the PV header says"));
    }
    let (offset, length) = (f.u64_le(40)?, f.u64_le(48)?);
    if offset == 0 || f.u32_le(60)? & 1 != 0 {
        return Ok(None);
    }
    let room = size.saturating_sub(SECTOR);
    if offset < SECTOR || offset >= size || length > room || length > MOST_TEXT {
        return Err(f
            .corrupt(40, "the metadata text lies outside its area")
            .mismatch(format!("at most {} bytes", room.min(MOST_TEXT)), length));
    }
    let at = start.saturating_add(offset);
    let straight = length.min(size.saturating_sub(offset));
    let mut bytes = read(disk, at, straight, NAME)?;
    let rest = length.saturating_sub(straight);
    bytes.extend(read(disk, start.saturating_add(SECTOR), rest, NAME)?);
    let (stored, found) = (f.u32_le(56)?, checksum(&bytes));
    if stored != found {
        return Err(f
            .corrupt(56, "the metadata text's checksum is wrong")
            .mismatch(format!("{stored:#010x}"), format!("{found:#010x}")));
    }
    Ok(Some(Text { bytes, at }))
}
