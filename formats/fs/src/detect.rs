//! What a volume holds, by content: filesystems this program reads, and others by name.
//!
//! Offsets are those that `blkid -p` uses (util-linux `libblkid/src/superblocks`), checked against it
//! in the tests. Content that would pass for several kinds is named after the container (MD, LUKS,
//! LVM) before what is in it.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Fields, Result};
use serde::Serialize;

use crate::ext4::uuid_text;
use crate::{
    Btrfs, BtrfsMut, Ext4, Ext4Mut, Fat, FatMut, FileSystem, FileSystemMut, Iso9660, Squashfs, Xfs,
    XfsMut,
};

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
    linux_raid, luks, lvm2, xfs, ext, btrfs, swap, ntfs, squashfs, udf, iso9660, vfat,
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
        Some(Kind { name: "vfat", .. }) => Ok(Arc::new(Fat::open(disk)?)),
        Some(Kind { name: "xfs", .. }) => Ok(Arc::new(Xfs::open(disk)?)),
        Some(Kind { name: "btrfs", .. }) => Ok(Arc::new(Btrfs::open(disk)?)),
        Some(Kind {
            name: "iso9660", ..
        }) => Ok(Arc::new(Iso9660::open(disk)?)),
        Some(Kind {
            name: "squashfs", ..
        }) => Ok(Arc::new(Squashfs::open(disk)?)),
        Some(kind) => Err(Error::unsupported(format!(
            "holds {}, which cannot be read",
            kind.name
        ))),
        None => Err(Error::usage("holds no known filesystem")),
    }
}

/// Opens the filesystem on `disk` for writing; a journal that needs recovery is replayed onto it.
///
/// # Errors
/// As [`open`], and Unsupported, by name, where it can be read but not written.
pub fn open_mut(disk: Arc<dyn DiskMut>) -> Result<Arc<dyn FileSystemMut>> {
    let readable: Arc<dyn Disk> = disk.clone();
    match detect(&readable)? {
        Some(Kind {
            name: "ext2" | "ext3" | "ext4",
            ..
        }) => Ok(Arc::new(Ext4Mut::open(disk)?)),
        Some(Kind { name: "vfat", .. }) => Ok(Arc::new(FatMut::open(disk)?)),
        Some(Kind { name: "xfs", .. }) => Ok(Arc::new(XfsMut::open(disk)?)),
        Some(Kind { name: "btrfs", .. }) => Ok(Arc::new(BtrfsMut::open(disk)?)),
        Some(kind) => Err(Error::unsupported(format!(
            "holds {}, which cannot be written",
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

/// What ends the first page of a swap area, and what it is then.
const SWAP_MARKS: &[(&[u8], &str)] = &[
    (b"SWAPSPACE2", "swap"),
    (b"SWAP-SPACE", "swap"),
    (b"S1SUSPEND", "swsuspend"),
    (b"S2SUSPEND", "swsuspend"),
    (b"ULSUSPEND", "swsuspend"),
    (b"LINHIB0001", "swsuspend"),
];

fn swap(probe: &Probe<'_>) -> Result<Option<Kind>> {
    // The page size is that of the machine that made it.
    for page in [4096u64, 8192, 16_384, 65_536] {
        let Some(mark) = probe.bytes(page.saturating_sub(10), 10)? else {
            break;
        };
        let Some((known, name)) = SWAP_MARKS.iter().find(|(known, _)| mark.starts_with(known))
        else {
            continue;
        };
        let Some(raw) = probe.bytes(1024, 64)? else {
            break;
        };
        let f = Fields::new(&raw, "swap header", 1024);
        let (id, label) = if *known == b"SWAP-SPACE" {
            (None, None)
        } else {
            (uuid(&f, 12)?, text(f.bytes(28, 16)?))
        };
        // TuxOnIce keeps the swap signature, and marks its image at the start of the page.
        let hibernated = probe.marked(0, 8, 0, b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c")?;
        let name = if hibernated.is_some() {
            "swsuspend"
        } else {
            name
        };
        return Ok(kind(name, id, label));
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

/// UDF, on its own or beside ISO 9660: an `NSR` descriptor among those that begin at 32 KiB.
fn udf(probe: &Probe<'_>) -> Result<Option<Kind>> {
    for sector in 16..64u64 {
        let at = sector.saturating_mul(2048);
        let Some(raw) = probe.bytes(at, 8)? else {
            break;
        };
        match raw.get(1..6).unwrap_or_default() {
            b"NSR02" | b"NSR03" => return Ok(kind("udf", None, None)),
            b"CD001" | b"BEA01" | b"BOOT2" | b"CDW02" => {}
            _ => break,
        }
    }
    Ok(None)
}

fn iso9660(probe: &Probe<'_>) -> Result<Option<Kind>> {
    const FIRST: u64 = 32_768;
    let Some(raw) = probe.marked(FIRST, 2048, 1, b"CD001")? else {
        return Ok(None);
    };
    let f = Fields::new(&raw, "volume descriptor", FIRST);
    let mut label = text(f.bytes(40, 32)?);
    // Joliet keeps the label as it was typed, in UTF-16, in a descriptor of its own.
    for sector in 1..16u64 {
        let at = FIRST.saturating_add(sector.saturating_mul(2048));
        let Some(raw) = probe.marked(at, 2048, 1, b"CD001")? else {
            break;
        };
        let f = Fields::new(&raw, "volume descriptor", at);
        let joliet = matches!(f.bytes(88, 3)?, b"%/@" | b"%/C" | b"%/E");
        if f.u8(0)? == 255 || f.u8(0)? == 2 && joliet {
            let (pairs, _) = f.bytes(40, 32)?.as_chunks::<2>();
            let wide: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            let typed = String::from_utf16_lossy(&wide);
            let typed = typed.trim_end_matches(['\0', ' ']);
            if f.u8(0)? == 2 && !typed.is_empty() {
                label = Some(typed.to_owned());
            }
            break;
        }
    }
    // The time of the last change serves as UUID, that of creation where there is none.
    let mut id = None;
    for at in [830, 813] {
        let digits = f.bytes(at, 16)?;
        if digits.iter().all(u8::is_ascii_digit) && digits.iter().any(|digit| *digit != b'0') {
            let digits = String::from_utf8_lossy(digits);
            let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
            let parts = parts.map(|range| digits.get(range).unwrap_or_default().to_owned());
            id = Some(parts.join("-"));
            break;
        }
    }
    Ok(kind("iso9660", id, label))
}

/// UUID and label of the ISO 9660 filesystem on `disk`.
pub(crate) fn iso9660_names(disk: &Arc<dyn Disk>) -> Result<(Option<String>, Option<String>)> {
    let found = iso9660(&Probe { disk })?;
    Ok(found.map_or((None, None), |kind| (kind.uuid, kind.label)))
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
    let number = f.u32_le(if far { 67 } else { 39 })?;
    let (hi, lo) = (number >> 16, number & 0xffff);
    let label = fat_label(probe, &f, far)?;
    Ok(kind("vfat", Some(format!("{hi:04X}-{lo:04X}")), label))
}

/// The label in the root directory's first cluster, which is the one that counts; the copy in the
/// boot sector is not kept up to date by every system.
fn fat_label(probe: &Probe<'_>, f: &Fields<'_>, far: bool) -> Result<Option<String>> {
    let sector = u64::from(f.u16_le(11)?);
    let reserved = u64::from(f.u16_le(14)?);
    let per_fat = if far {
        f.u32_le(36)?
    } else {
        u32::from(f.u16_le(22)?)
    };
    let fats = u64::from(f.u8(16)?).saturating_mul(u64::from(per_fat));
    let cluster = u64::from(f.u8(13)?).saturating_mul(sector);
    let area = reserved.saturating_add(fats).saturating_mul(sector);
    let (at, len) = if far {
        let first = u64::from(f.u32_le(44)?).saturating_sub(2);
        (area.saturating_add(first.saturating_mul(cluster)), cluster)
    } else {
        (area, u64::from(f.u16_le(17)?).saturating_mul(32))
    };
    // At most 2 MiB: 64 Ki entries, or a cluster of 128 sectors of 4 KiB.
    let Some(entries) = probe.bytes(at, usize::try_from(len).unwrap_or(0))? else {
        return Ok(None);
    };
    for entry in entries.chunks_exact(32) {
        let one = Fields::new(entry, "root directory", at);
        let (first, attributes) = (one.u8(0)?, one.u8(11)?);
        if first == 0 {
            break;
        }
        // A volume label that is neither deleted nor a part of a long name.
        if first != 0xe5 && attributes & 0x08 != 0 && attributes & 0x0f != 0x0f {
            let mut name = one.bytes(0, 11)?.to_vec();
            if let Some(head) = name.first_mut().filter(|head| **head == 5) {
                *head = 0xe5;
            }
            return Ok(text(&name));
        }
    }
    Ok(None)
}
