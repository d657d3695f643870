//! What a disk or a partition shows of itself in a few bytes: enough to tell that something begins
//! there, and to name the partition tables that are not read.
//!
//! After util-linux' libblkid (`partitions/*.c`, `superblocks/*.c`) and Linux `block/partitions`.

use std::sync::Arc;

use rehost_block::{Disk, Result};

/// Where in a partition which bytes tell that something known begins with it: boot sectors and
/// records, ext, XFS, Btrfs, LVM, LUKS, MD, swap, squashfs, ISO 9660.
const BEGINNINGS: [(u64, &[u8]); 15] = [
    (510, &[0x55, 0xaa]),
    (1080, &[0x53, 0xef]),
    (0, b"XFSB"),
    (65_600, b"_BHRfS_M"),
    (0, b"LABELONE"),
    (512, b"LABELONE"),
    (1024, b"LABELONE"),
    (1536, b"LABELONE"),
    (0, b"LUKS\xba\xbe"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    (4086, b"SWAPSPACE2"),
    (4086, b"SWAP-SPACE"),
    (0, b"hsqs"),
    (32_769, b"CD001"),
];

/// Longest of them.
const LONGEST: usize = 10;

fn shows(disk: &Arc<dyn Disk>, start: u64, at: u64, wanted: &[u8]) -> Result<bool> {
    let mut found = [0; LONGEST];
    let Some(found) = found.get_mut(..wanted.len()) else {
        return Ok(false);
    };
    let at = start.saturating_add(at);
    let len = u64::try_from(wanted.len()).unwrap_or(u64::MAX);
    if at.checked_add(len).is_none_or(|end| end > disk.size()) {
        return Ok(false);
    }
    disk.read_at(found, at)?;
    Ok(found == wanted)
}

/// Whether something that is known begins at byte `start`.
pub(crate) fn begins(disk: &Arc<dyn Disk>, start: u64) -> Result<bool> {
    for (at, wanted) in BEGINNINGS {
        if shows(disk, start, at, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A BSD disklabel's magic number, which it has twice.
const BSD: &[u8] = &[0x57, 0x45, 0x56, 0x82];

fn bsd(disk: &Arc<dyn Disk>, start: u64, at: u64) -> Result<bool> {
    Ok(shows(disk, start, at, BSD)? && shows(disk, start, at.saturating_add(132), BSD)?)
}

/// The table that is not read and divides the whole disk.
pub(crate) fn on_disk(disk: &Arc<dyn Disk>) -> Result<Option<&'static str>> {
    if bsd(disk, 0, 512)? || bsd(disk, 0, 64)? {
        return Ok(Some("a BSD disklabel"));
    }
    let tables: [(u64, &[u8], &str); 7] = [
        (508, &[0xda, 0xbe], "a Sun disklabel"),
        (0, &[0x0b, 0xe5, 0xa9, 0x41], "an SGI volume header"),
        (0, &[0xc9, 0xc2, 0xd4, 0xc1], "an AIX label"),
        (0, b"RDSK", "an Amiga rigid disk block"),
        (512, b"RDSK", "an Amiga rigid disk block"),
        (512, b"PM\0\0", "an Apple partition map"),
        (3072, b"PRIVHEAD", "a database of Windows dynamic volumes"),
    ];
    for (at, wanted, name) in tables {
        if shows(disk, 0, at, wanted)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The table that is not read and divides the partition that begins at byte `start`.
pub(crate) fn in_partition(disk: &Arc<dyn Disk>, start: u64) -> Result<Option<&'static str>> {
    Ok(if bsd(disk, start, 512)? {
        Some("a BSD disklabel")
    } else if shows(disk, start, 524, &[0xee, 0xde, 0x0d, 0x60])? {
        Some("a Solaris VTOC")
    } else {
        None
    })
}
