//! What a volume holds, by content: filesystems this program reads, and others by name.
//!
//! Offsets are those that `blkid -p` uses (util-linux `libblkid/src/superblocks`), checked against it
//! in the tests. Content that would pass for several kinds is named after the container (MD, LUKS,
//! LVM) before what is in it.

use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};
use serde::Serialize;

use crate::ext4::uuid_text;
use crate::{Ext4, FileSystem};

/// What was recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// The name that blkid prints as `TYPE`: `ext4`, `xfs`, `crypto_LUKS`, …
    pub name: &'static str,
    /// `UUID` as blkid prints it, where reading it is cheap.
    pub uuid: Option<String>,
    /// `LABEL`, where reading it is cheap.
    pub label: Option<String>,
}

/// A recogniser: `None` when the disk is not of its kind.
type Recogniser = fn(&Probe<'_>) -> Result<Option<Kind>>;

/// In the order in which they are asked.
const RECOGNISERS: &[Recogniser] = &[
    linux_raid, luks, lvm2, xfs, ext, btrfs, swap, ntfs, squashfs, iso9660, vfat,
];

/// Recognises what `disk` holds; `None` when it is nothing known.
///
/// # Errors
/// As reading the disk.
pub fn detect(disk: &Arc<dyn Disk>) -> Result<Option<Kind>> {
    let probe = Probe { disk };
    for recognise in RECOGNISERS {
        if let Some(kind) = recognise(&probe)? {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

/// Opens the filesystem on `disk` for reading.
///
/// # Errors
/// Unsupported, by name, when it holds something this program only names; Usage when it holds
/// nothing known; otherwise as the filesystem's own `open`.
pub fn open(disk: Arc<dyn Disk>) -> Result<Arc<dyn FileSystem>> {
    match detect(&disk)? {
        Some(Kind {
            name: "ext2" | "ext3" | "ext4",
            ..
        }) => Ok(Arc::new(Ext4::open(disk)?)),
        Some(kind) => Err(Error::unsupported(format!(
            "holds {}, which cannot be read",
            kind.name
        ))),
        None => Err(Error::usage("holds no known filesystem")),
    }
}

/// Reads of a disk that may be smaller than what is asked for.
struct Probe<'a> {
    disk: &'a Arc<dyn Disk>,
}

impl Probe<'_> {
    /// `len` bytes at `offset`; `None` where the disk ends before.
    fn bytes(&self, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let end = u64::try_from(len)
            .ok()
            .and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| end > self.disk.size()) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        self.disk.read_at(&mut bytes, offset)?;
        Ok(Some(bytes))
    }

    /// Like [`Probe::bytes`], when they begin with `magic` at byte `at` of them.
    fn marked(&self, offset: u64, len: usize, at: usize, magic: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.bytes(offset, len)?;
        Ok(found.filter(|bytes| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))))
    }
}

fn kind(name: &'static str, uuid: Option<String>, label: Option<String>) -> Option<Kind> {
    Some(Kind { name, uuid, label })
}

/// Text up to the first zero byte, without blanks at its end.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

fn uuid(fields: &Fields<'_>, at: usize) -> Result<Option<String>> {
    Ok(uuid_text(&fields.array::<16>(at)?))
}

fn ext(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(1024, 1024, 0x38, &[0x53, 0xef])? else {
        return Ok(None);
    };
    let f = Fields::new(&raw, "superblock", 1024);
    let name = crate::ext4::kind_of_raw(&f)?;
    Ok(kind(name, uuid(&f, 0x68)?, text(f.bytes(0x78, 16)?)))
}

fn xfs(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(0, 512, 0, b"XFSB")? else {
        return Ok(None);
    };
    let f = Fields::new(&raw, "superblock", 0);
    Ok(kind("xfs", uuid(&f, 32)?, text(f.bytes(108, 12)?)))
}

fn btrfs(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(65_536, 4096, 0x40, b"_BHRfS_M")? else {
        return Ok(None);
    };
    let f = Fields::new(&raw, "superblock", 65_536);
    Ok(kind("btrfs", uuid(&f, 0x20)?, text(f.bytes(0x12b, 256)?)))
}

fn swap(probe: &Probe<'_>) -> Result<Option<Kind>> {
    // The signature is at the end of the first page, whose size is the machine's.
    for page in [4096u64, 8192, 16_384, 65_536] {
        let at = page.saturating_sub(10);
        let Some(mark) = probe.bytes(at, 10)? else {
            break;
        };
        if mark != b"SWAPSPACE2" && mark != b"SWAP-SPACE" {
            continue;
        }
        let Some(raw) = probe.bytes(1024, 64)? else {
            break;
        };
        let f = Fields::new(&raw, "swap header", 1024);
        let new = mark == b"SWAPSPACE2";
        let (id, label) = if new {
            (uuid(&f, 12)?, text(f.bytes(28, 16)?))
        } else {
            (None, None)
        };
        return Ok(kind("swap", id, label));
    }
    Ok(None)
}

fn luks(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(0, 512, 0, b"LUKS\xba\xbe")? else {
        return Ok(None);
    };
    let f = Fields::new(&raw, "LUKS header", 0);
    let id = text(f.bytes(168, 40)?);
    let label = match f.u16_be(6)? {
        2 => text(f.bytes(24, 48)?),
        _ => None,
    };
    Ok(kind("crypto_LUKS", id, label))
}

fn lvm2(probe: &Probe<'_>) -> Result<Option<Kind>> {
    for sector in 0..4u64 {
        let at = sector.saturating_mul(512);
        let Some(raw) = probe.marked(at, 512, 0, b"LABELONE")? else {
            continue;
        };
        let f = Fields::new(&raw, "LVM label", at);
        if f.bytes(24, 8)? != b"LVM2 001" {
            continue;
        }
        let id: String = f.bytes(32, 32)?.iter().map(|b| char::from(*b)).collect();
        let mut shown = String::with_capacity(38);
        for (nth, letter) in id.chars().enumerate() {
            if matches!(nth, 6 | 10 | 14 | 18 | 22 | 26) {
                shown.push('-');
            }
            shown.push(letter);
        }
        return Ok(kind("LVM2_member", Some(shown), None));
    }
    Ok(None)
}

fn linux_raid(probe: &Probe<'_>) -> Result<Option<Kind>> {
    const MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();
    let sectors = probe.disk.size() / 512;
    // Version 1.2, 1.1 and 1.0, and 0.90: 4 KiB from the start, at it, and near the end.
    let end = (sectors.saturating_sub(16) & !7).saturating_mul(512);
    for at in [4096, 0, end] {
        let Some(raw) = probe.marked(at, 256, 0, &MAGIC)? else {
            continue;
        };
        let f = Fields::new(&raw, "MD superblock", at);
        if f.u32_le(4)? != 1 || f.u64_le(144)?.saturating_mul(512) != at {
            continue;
        }
        let id = uuid(&f, 16)?;
        return Ok(kind("linux_raid_member", id, text(f.bytes(32, 32)?)));
    }
    let old = (probe.disk.size() & !0xffff).saturating_sub(0x1_0000);
    if probe.disk.size() >= 0x1_0000
        && let Some(raw) = probe.marked(old, 256, 0, &MAGIC)?
    {
        let f = Fields::new(&raw, "MD superblock", old);
        if f.u32_le(4)? == 0 {
            let mut id = [0; 16];
            for (place, at) in id.chunks_mut(4).zip([20, 52, 56, 60]) {
                // Old superblocks are in the machine's order; blkid shows them big endian.
                place.copy_from_slice(&f.u32_le(at)?.to_be_bytes());
            }
            return Ok(kind("linux_raid_member", uuid_text(&id), None));
        }
    }
    Ok(None)
}

fn ntfs(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(0, 512, 3, b"NTFS    ")? else {
        return Ok(None);
    };
    let serial = Fields::new(&raw, "boot sector", 0).u64_le(72)?;
    Ok(kind("ntfs", Some(format!("{serial:016X}")), None))
}

fn squashfs(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let found = probe.marked(0, 96, 0, b"hsqs")?;
    Ok(found.and_then(|_| kind("squashfs", None, None)))
}

fn iso9660(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(32_768, 2048, 1, b"CD001")? else {
        return Ok(None);
    };
    let label = text(raw.get(40..72).unwrap_or_default());
    Ok(kind("iso9660", None, label))
}

fn vfat(probe: &Probe<'_>) -> Result<Option<Kind>> {
    let Some(raw) = probe.marked(0, 512, 510, &[0x55, 0xaa])? else {
        return Ok(None);
    };
    let f = Fields::new(&raw, "boot sector", 0);
    let far = f.bytes(82, 5)? == b"FAT32";
    let near = matches!(f.bytes(54, 5)?, b"FAT12" | b"FAT16");
    let media = f.u8(21)?;
    let sane = matches!(f.u16_le(11)?, 512 | 1024 | 2048 | 4096)
        && f.u8(13)?.is_power_of_two()
        && f.u16_le(14)? != 0
        && (media == 0xf0 || media >= 0xf8);
    if !sane || !(far || near) {
        return Ok(None);
    }
    let serial = if far { 67 } else { 39 };
    let number = f.u32_le(serial)?;
    let (hi, lo) = (number >> 16, number & 0xffff);
    let label = text(f.bytes(serial.saturating_add(4), 11)?).filter(|label| label != "NO NAME");
    Ok(kind("vfat", Some(format!("{hi:04X}-{lo:04X}")), label))
}
