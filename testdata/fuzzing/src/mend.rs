//! Checksums of a mutated file made right, so that mutations get past them to what they protect.

use sha2::{Digest, Sha256, Sha512};

use crate::Target;
use crate::members::disks;
use crate::members::made::{lvm_sum, md_sum, thin_sum};

/// `file` with its checksums as they must be; nothing when they are, or there are none.
pub(crate) fn checksums(target: Target, file: &[u8]) -> Option<Vec<u8>> {
    let mend: fn(&mut [u8]) = match target {
        Target::Luks => luks2,
        Target::Vhdx => vhdx,
        Target::Vhd => vhd,
        Target::Partitions => gpt,
        Target::Xfs => xfs,
        Target::Btrfs => btrfs,
        Target::Lvm => |file| each_disk(file, lvm),
        Target::Md => |file| each_disk(file, md),
        Target::Stack => |file| {
            each_disk(file, |disk| {
                gpt(disk);
                lvm(disk);
                md(disk);
            })
        },
        Target::Thin => thin,
        _ => return None,
    };
    let mut mended = file.to_vec();
    mend(&mut mended);
    (mended != file).then_some(mended)
}

fn u32_le(file: &[u8], at: usize) -> usize {
    let field = file.get(at..at + 4).and_then(|field| field.try_into().ok());
    usize::try_from(field.map_or(0, u32::from_le_bytes)).unwrap()
}

/// The first copy of a LUKS2 header; a second one is left as it is, older than that or not.
fn luks2(file: &mut [u8]) {
    if !file.starts_with(b"LUKS\xba\xbe\0\x02") {
        return;
    }
    let size = file.get(8..16).and_then(|field| field.try_into().ok());
    let size = usize::try_from(size.map_or(0, u64::from_be_bytes)).unwrap();
    let Some(header) = file.get_mut(..size).filter(|header| header.len() >= 4096) else {
        return;
    };
    header[448..512].fill(0);
    if header[72..104].starts_with(b"sha512\0") {
        let sum = Sha512::digest(&*header);
        header[448..512].copy_from_slice(&sum);
    } else {
        let sum = Sha256::digest(&*header);
        header[448..480].copy_from_slice(&sum);
    }
}

/// Both headers and region tables of a VHDX, and what looks like an entry of its log.
fn vhdx(file: &mut [u8]) {
    for (at, len) in [(64, 4), (128, 4), (192, 64), (256, 64)] {
        crc32c_at(file, at << 10, len << 10);
    }
    let places = [64usize << 10, 128 << 10].map(|header| {
        let log = file.get(header + 72..header + 80);
        let log = log.and_then(|field| field.try_into().ok());
        let at = usize::try_from(log.map_or(0, u64::from_le_bytes)).unwrap_or(0);
        (at, u32_le(file, header + 68))
    });
    for (log, len) in places {
        for at in (log..log.saturating_add(len.min(1 << 20))).step_by(4096) {
            if file
                .get(at..)
                .is_some_and(|entry| entry.starts_with(b"loge"))
            {
                crc32c_at(file, at, u32_le(file, at + 8));
            }
        }
    }
}

/// CRC-32C over `len` bytes, with its own place, the second four of them, taken as zero.
fn crc32c_at(file: &mut [u8], at: usize, len: usize) {
    let Some(part) = at.checked_add(len).and_then(|end| file.get_mut(at..end)) else {
        return;
    };
    if part.len() >= 8 {
        part[4..8].fill(0);
        let sum = crc32c::crc32c(part);
        part[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Both copies of a VHD's footer, and the header between them.
fn vhd(file: &mut [u8]) {
    let last = file.len().saturating_sub(512);
    for (cookie, at, len, sum) in [
        (b"conectix", 0, 512, 64),
        (b"conectix", last, 512, 64),
        (b"cxsparse", 512, 1024, 36),
    ] {
        let Some(part) = file.get_mut(at..at + len) else {
            continue;
        };
        if part.starts_with(cookie) {
            part[sum..sum + 4].fill(0);
            let bytes = part.iter().map(|byte| u32::from(*byte));
            let value = !bytes.fold(0, u32::wrapping_add);
            part[sum..sum + 4].copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// A GPT's primary header and entries.
fn gpt(file: &mut [u8]) {
    for sector in [512usize, 4096] {
        let head = |file: &[u8], at| u32_le(file, sector + at);
        if !file
            .get(sector..)
            .is_some_and(|rest| rest.starts_with(b"EFI PART"))
        {
            continue;
        }
        let table = head(file, 72).saturating_mul(sector);
        let len = head(file, 80).saturating_mul(head(file, 84));
        let entries = table.checked_add(len).and_then(|end| file.get(table..end));
        let sum = entries.map(crc32fast::hash);
        if let (Some(sum), Some(place)) = (sum, file.get_mut(sector + 88..sector + 92)) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        let len = head(file, 12).min(sector);
        if let Some(header) = file
            .get_mut(sector..sector + len)
            .filter(|head| head.len() >= 20)
        {
            header[16..20].fill(0);
            let sum = crc32fast::hash(header);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// The CRC-32C of a Btrfs' first superblock, and of whatever looks like one of its tree blocks.
fn btrfs(file: &mut [u8]) {
    const AT: usize = 64 << 10;
    let Some(head) = file.get(AT..AT + 4096) else {
        return;
    };
    let uuid = head[0x20..0x30].to_vec();
    let node = u32_le(file, AT + 0x94).clamp(4096, 64 << 10);
    let sum = |file: &mut [u8], at: usize, len: usize| {
        if let Some(block) = file.get_mut(at..at + len) {
            let sum = crc32c::crc32c(&block[32..]);
            block[..4].copy_from_slice(&sum.to_le_bytes());
        }
    };
    sum(file, AT, 4096);
    for at in (AT + 4096..file.len()).step_by(4096) {
        let own = file.get(at + 32..at + 48);
        if own == Some(&*uuid) {
            sum(file, at, node);
        }
    }
}

/// Every disk of an input that is made of several.
fn each_disk(file: &mut [u8], mend: fn(&mut [u8])) {
    let (count, len) = {
        let all = disks(file);
        (all.len(), all.first().map_or(0, |disk| disk.len()))
    };
    for nth in 0..count {
        let end = ((nth + 1) * len).min(file.len().saturating_sub(1));
        mend(&mut file[nth * len..end]);
    }
}

/// A label, the header of the metadata area after it, and the text.
fn lvm(disk: &mut [u8]) {
    if let Some(label) = disk.get_mut(512..1024)
        && label.starts_with(b"LABELONE")
    {
        let sum = lvm_sum(&label[20..]);
        label[16..20].copy_from_slice(&sum.to_le_bytes());
    }
    let (at, len) = (u32_le(disk, 4096 + 40), u32_le(disk, 4096 + 48));
    let from = at.saturating_add(4096);
    let text = from.checked_add(len).and_then(|end| disk.get(from..end));
    let sum = text.map(lvm_sum);
    if let Some(area) = disk.get_mut(4096..4608)
        && area[4..].starts_with(b" LVM2 x")
    {
        if let Some(sum) = sum {
            area[56..60].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = lvm_sum(&area[4..]);
        area[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Superblocks of version 1.1 and 1.2, and of 0.90.
fn md(disk: &mut [u8]) {
    const MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
    let old = (disk.len() & !0xffff).saturating_sub(0x1_0000);
    for at in [0, 4096, old] {
        let Some(raw) = disk.get_mut(at..).filter(|raw| raw.starts_with(MAGIC)) else {
            continue;
        };
        let members = u32_le(raw, 220);
        let (len, skip) = match u32_le(raw, 4) {
            0 => (4096, 152),
            _ => (256usize.saturating_add(members.saturating_mul(2)), 216),
        };
        if let Some(raw) = raw.get_mut(..len) {
            let sum = md_sum(raw, skip);
            raw[skip..skip + 4].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// The superblock and every node.
fn thin(file: &mut [u8]) {
    for (nth, block) in file.chunks_exact_mut(4096).enumerate() {
        let salt = if nth == 0 { 160_774 } else { 121_107 };
        let sum = thin_sum(block, salt);
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// What says of itself what it is in a version 5 XFS: superblock, group headers, blocks of trees and
/// directories, inodes, records of the log.
fn xfs(file: &mut [u8]) {
    let be = |at: usize, len: usize| {
        let field = file.get(at..at + len).unwrap_or_default();
        field
            .iter()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
    };
    let (block, sector, inode) = (be(4, 4), be(102, 2), be(104, 2));
    let sane = |size: usize| size.is_power_of_two() && (256..=65_536).contains(&size);
    if be(100, 2) & 0xf != 5 || !sane(block) || !sane(sector) || !sane(inode) {
        return;
    }
    for at in (0..file.len()).step_by(512) {
        let rest = &file[at..];
        let long = rest.get(8..10).unwrap_or_default();
        let (len, sum) = match rest.get(..4).unwrap_or_default() {
            b"XFSB" => (sector, 224),
            b"XAGF" => (sector, 216),
            b"XAGI" => (sector, 312),
            b"XAFL" => (sector, 32),
            b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC" => (block, 52),
            b"BMA3" => (block, 64),
            b"XDB3" | b"XDD3" | b"XDF3" => (block, 4),
            b"XSLM" | b"XARM" => (block, 12),
            // A record without a checksum passes for one of mkfs.
            b"\xfe\xed\xba\xbe" => {
                file[at + 32..at + 36].fill(0);
                continue;
            }
            _ if matches!(long, [0x3d, 0xf1 | 0xff] | [0x3e, 0xbe] | [0x3b, 0xee]) => (block, 12),
            _ => continue,
        };
        crc32c_of(file, at, len, sum);
    }
    for at in (0..file.len()).step_by(inode) {
        if file[at..].starts_with(b"IN") {
            crc32c_of(file, at, inode, 100);
        }
    }
}

/// CRC-32C over `len` bytes, with the four at `sum`, its own place, taken as zero.
fn crc32c_of(file: &mut [u8], at: usize, len: usize, sum: usize) {
    let Some(part) = at.checked_add(len).and_then(|end| file.get_mut(at..end)) else {
        return;
    };
    if sum + 4 <= part.len() {
        part[sum..sum + 4].fill(0);
        let value = crc32c::crc32c(part);
        part[sum..sum + 4].copy_from_slice(&value.to_le_bytes());
    }
}
