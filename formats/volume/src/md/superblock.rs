//! MD superblocks: version 0.90 and versions 1.0, 1.1 and 1.2, which differ in their place only.
//!
//! After the kernel's `include/uapi/linux/raid/md_p.h` and md(4). Left out on purpose: version
//! 0.90 of big-endian machines.

use std::sync::Arc;

use rehost_block::{Disk, Fields, Result};

/// `MD_SB_MAGIC`, little endian.
const MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// Members of an array. MD's own limit for version 1.
const MOST_MEMBERS: u32 = 1920;

/// Feature bits of version 1.
const RECOVERY_OFFSET: u32 = 2;
const RESHAPE: u32 = 4;
const BAD_BLOCKS: u32 = 8;
const REPLACEMENT: u32 = 16;
const JOURNAL: u32 = 0x200;
const RAID0_LAYOUT: u32 = 0x1000;
/// Those whose meaning is known: bitmaps, replacements, moved data, clusters, partial parity logs.
const KNOWN: u32 = 0x1fff;

/// What a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Holds the data of this slot.
    Active(u32),
    Spare,
    Faulty,
    Journal,
}

/// A superblock, in bytes where the disk counts sectors.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    /// `0.90`, `1.0`, `1.1` or `1.2`.
    pub(crate) version: &'static str,
    pub(crate) uuid: [u8; 16],
    pub(crate) name: Option<String>,
    pub(crate) level: i32,
    pub(crate) layout: Option<u32>,
    pub(crate) chunk: u64,
    pub(crate) members: u32,
    /// Bytes used of each member, where the level says so.
    pub(crate) size: u64,
    pub(crate) data_offset: u64,
    pub(crate) data_size: u64,
    pub(crate) events: u64,
    pub(crate) number: u32,
    pub(crate) role: Role,
    /// Roles of all members by number.
    pub(crate) roles: Vec<Role>,
    /// Whether parity or copies are known to agree everywhere.
    pub(crate) in_sync: bool,
    /// Why this member must not be relied upon, if so.
    pub(crate) doubt: Option<String>,
    /// Why the array cannot be read, if so.
    pub(crate) refusal: Option<&'static str>,
    pub(crate) at: u64,
}

/// Reads the superblock of `disk`, `None` when it has none. Version 1.1 and 1.2 are looked for
/// first: 0.90 at the end of a disk may belong to its last partition.
pub(crate) fn read(disk: &Arc<dyn Disk>) -> Result<Option<Superblock>> {
    let sectors = disk.size() / 512;
    let end = (sectors.saturating_sub(16) & !7).saturating_mul(512);
    for (at, version) in [(0, "1.1"), (4096, "1.2"), (end, "1.0")] {
        if let Some(raw) = marked(disk, at, 256)?
            && u32_at(&raw, 4) == Some(1)
            && let Some(found) = version_1(disk, at, version)?
        {
            return Ok(Some(found));
        }
    }
    let old = (disk.size() & !0xffff).saturating_sub(0x1_0000);
    match marked(disk, old, 4096)? {
        Some(raw) if u32_at(&raw, 4) == Some(0) => version_0(&raw, old).map(Some),
        _ => Ok(None),
    }
}

fn u32_at(raw: &[u8], at: usize) -> Option<u32> {
    Fields::new(raw, "MD superblock", 0).u32_le(at).ok()
}

fn bytes(disk: &Arc<dyn Disk>, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
    let end = u64::try_from(len).ok().and_then(|len| at.checked_add(len));
    if end.is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let mut raw = vec![0; len];
    disk.read_at(&mut raw, at)?;
    Ok(Some(raw))
}

fn marked(disk: &Arc<dyn Disk>, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
    Ok(bytes(disk, at, len)?.filter(|raw| raw.starts_with(&MAGIC)))
}

/// The sum of the words, without the one at `skip`, folded into 32 bits.
fn checksum(raw: &[u8], skip: usize) -> u32 {
    let mut sum = 0u64;
    for (nth, word) in raw.chunks(4).enumerate() {
        if nth.saturating_mul(4) == skip {
            continue;
        }
        let mut whole = [0; 4];
        for (to, from) in whole.iter_mut().zip(word) {
            *to = *from;
        }
        sum = sum.wrapping_add(u64::from(u32::from_le_bytes(whole)));
    }
    let folded = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    u32::try_from(folded & 0xffff_ffff).unwrap_or(0)
}

fn version_1(disk: &Arc<dyn Disk>, at: u64, version: &'static str) -> Result<Option<Superblock>> {
    let Some(head) = bytes(disk, at, 256)? else {
        return Ok(None);
    };
    let f = Fields::new(&head, "MD superblock", at);
    if f.u64_le(144)?.checked_mul(512) != Some(at) {
        return Ok(None);
    }
    let most = f.u32_le(220)?;
    if most > MOST_MEMBERS {
        return Err(f
            .corrupt(220, "too many members")
            .mismatch(format!("at most {MOST_MEMBERS}"), most));
    }
    let len = usize::try_from(most).unwrap_or(0).saturating_mul(2);
    let Some(raw) = bytes(disk, at, len.saturating_add(256))? else {
        return Err(f.corrupt(220, "the superblock reaches past the end of the disk"));
    };
    let f = Fields::new(&raw, "MD superblock", at);
    let (stored, sum) = (f.u32_le(216)?, checksum(&raw, 216));
    if stored != sum {
        return Err(f
            .corrupt(216, "the superblock's checksum is wrong")
            .mismatch(format!("{stored:#010x}"), format!("{sum:#010x}")));
    }
    let features = f.u32_le(8)?;
    if features & !KNOWN != 0 {
        return Err(f
            .unsupported(8, "unknown features of the array")
            .mismatch(format!("{KNOWN:#x} at most"), format!("{features:#x}")));
    }
    let bytes_of = |at: usize| -> Result<u64> {
        let sectors = f.u64_le(at)?;
        sectors
            .checked_mul(512)
            .ok_or_else(|| f.corrupt(at, "a size is larger than any disk"))
    };
    let mut roles = Vec::new();
    for nth in 0..usize::try_from(most).unwrap_or(0) {
        roles.push(role(f.u16_le(nth.saturating_mul(2).saturating_add(256))?));
    }
    let number = f.u32_le(160)?;
    let level = i32::from_le_bytes(f.array(72)?);
    let mine = usize::try_from(number).ok().and_then(|nth| roles.get(nth));
    let doubt = if features & RECOVERY_OFFSET != 0 && f.u64_le(152)? != u64::MAX {
        Some("is being rebuilt".to_owned())
    } else if features & REPLACEMENT != 0 {
        Some("is the replacement of another one".to_owned())
    } else if features & BAD_BLOCKS != 0 && has_bad_blocks(disk, &f, at)? {
        Some("has a list of bad blocks".to_owned())
    } else {
        None
    };
    let named = f.bytes(32, 32)?.split(|byte| *byte == 0).next();
    let name = String::from_utf8_lossy(named.unwrap_or_default()).into_owned();
    Ok(Some(Superblock {
        version,
        uuid: f.array(16)?,
        name: Some(name).filter(|name| !name.is_empty()),
        level,
        layout: (level != 0 || features & RAID0_LAYOUT != 0)
            .then(|| f.u32_le(76))
            .transpose()?,
        chunk: u64::from(f.u32_le(88)?).saturating_mul(512),
        members: f.u32_le(92)?,
        size: bytes_of(80)?,
        data_offset: bytes_of(128)?,
        data_size: bytes_of(136)?,
        events: f.u64_le(200)?,
        number,
        role: mine.copied().unwrap_or(Role::Spare),
        roles,
        in_sync: f.u64_le(208)? == u64::MAX,
        doubt,
        refusal: if features & RESHAPE != 0 {
            Some("is being reshaped")
        } else if features & JOURNAL != 0 {
            Some("has a write journal")
        } else {
            None
        },
        at,
    }))
}

fn role(raw: u16) -> Role {
    match raw {
        0xffff => Role::Spare,
        0xfffe => Role::Faulty,
        0xfffd => Role::Journal,
        slot => Role::Active(u32::from(slot)),
    }
}

/// Whether the member's bad block log has an entry; its place counts from the superblock.
fn has_bad_blocks(disk: &Arc<dyn Disk>, f: &Fields<'_>, at: u64) -> Result<bool> {
    let len = usize::from(f.u16_le(186)?).saturating_mul(512);
    let offset = i64::from(i32::from_le_bytes(f.array(188)?)).saturating_mul(512);
    let place = at.checked_add_signed(offset);
    let Some(log) = place
        .map(|place| bytes(disk, place, len))
        .transpose()?
        .flatten()
    else {
        return Err(f.corrupt(188, "the list of bad blocks is outside the disk"));
    };
    Ok(log.chunks(8).next().is_some_and(|entry| entry != [0xff; 8]))
}

fn version_0(raw: &[u8], at: u64) -> Result<Superblock> {
    let f = Fields::new(raw, "MD superblock", at);
    let word = |nth: usize| f.u32_le(nth.saturating_mul(4));
    let (stored, sum) = (word(38)?, checksum(raw, 152));
    if stored != sum {
        return Err(f
            .corrupt(152, "the superblock's checksum is wrong")
            .mismatch(format!("{stored:#010x}"), format!("{sum:#010x}")));
    }
    let mut uuid = [0; 16];
    for (place, nth) in uuid.chunks_mut(4).zip([5, 13, 14, 15]) {
        place.copy_from_slice(&word(nth)?.to_be_bytes());
    }
    let disk_role = |nth: usize| -> Result<Role> {
        let (slot, state) = (word(nth.saturating_add(3))?, word(nth.saturating_add(4))?);
        Ok(if state & 1 != 0 {
            Role::Faulty
        } else if state & 0b110 == 0b110 {
            Role::Active(slot)
        } else {
            Role::Spare
        })
    };
    let mut roles = Vec::new();
    for nth in 0..27usize {
        roles.push(disk_role(nth.saturating_mul(32).saturating_add(128))?);
    }
    let number = word(992)?;
    let level = i32::from_le_bytes(f.array(28)?);
    let mine = usize::try_from(number).ok().and_then(|nth| roles.get(nth));
    let state = word(33)?;
    Ok(Superblock {
        version: "0.90",
        uuid,
        name: None,
        level,
        layout: (level != 0).then(|| word(64)).transpose()?,
        chunk: u64::from(word(65)?),
        members: word(10)?,
        size: u64::from(word(8)?).saturating_mul(1024),
        data_offset: 0,
        data_size: at,
        events: u64::from(word(40)?) << 32 | u64::from(word(39)?),
        number,
        role: mine.copied().unwrap_or(Role::Spare),
        roles,
        in_sync: state & 1 != 0 || word(43)? == u32::MAX,
        doubt: None,
        refusal: (word(2)? != 90).then_some("is being reshaped"),
        at,
    })
}
