//! Inodes of the log, written over the disk.
//!
//! The core lies in the log in the byte order of the host, the forks as on the disk; only the root
//! of an extent tree has the form of a block there and is packed into the inode here.

use rehost_block::{Fields, Result};

use super::apply::{Replay, is_later};
use super::transaction::Item;
use super::{corrupt, unsupported};

/// Bits of `ilf_fields`.
mod fields {
    pub(super) const DEVICE: u32 = 0x10;
    pub(super) const DATA: u32 = 0x2 | 0x4 | 0x8;
    pub(super) const DATA_ROOT: u32 = 0x8;
    pub(super) const ATTR: u32 = 0x40 | 0x80 | 0x100;
    pub(super) const ATTR_ROOT: u32 = 0x100;
}

/// Bytes of a version 3 core, behind which the forks begin.
const CORE_LEN: usize = 176;

/// Fields of the core with more than one byte: place and width.
const CORE: &[(usize, usize)] = &[
    (0, 2),
    (2, 2),
    (6, 2),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 2),
    (22, 2),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 4),
    (80, 2),
    (84, 4),
    (88, 2),
    (90, 2),
    (92, 4),
    (24, 8),
    (96, 4),
    (104, 8),
    (112, 8),
    (120, 8),
    (128, 4),
    (152, 8),
];

/// `di_flags2`: a time is one number of 64 bits, and else two of 32.
const FLAG2_BIGTIME: u64 = 1 << 3;

impl Replay<'_> {
    pub(super) fn inode(&mut self, item: &Item<'_>, lsn: u64) -> Result<()> {
        if !self.sb.v5 {
            return Err(unsupported(
                "changes inodes of a version 4 filesystem".to_owned(),
            ));
        }
        let f = item.format()?;
        let changed = f.u32_le(4)?;
        // 52 bytes were written by 32-bit hosts that align 64-bit numbers to 4 bytes.
        let (device, at) = if f.len() < 56 { (20, 36) } else { (24, 40) };
        let block = f.u64_le(at)?;
        let blocks = u64::from(f.u32_le(at.saturating_add(8))?);
        let within = u64::from(f.u32_le(at.saturating_add(12))?);
        if self.is_cancelled(block, blocks) {
            return Ok(());
        }
        let offset = block.saturating_mul(512).saturating_add(within);
        let size = usize::from(self.sb.inode_size);
        let mut raw = self.read(offset, size)?;
        let Some(core) = item.regions.get(1) else {
            return Err(corrupt("inode item without a core"));
        };
        let core = turned(core)?;
        let disk = Fields::new(&raw, "inode", offset);
        if disk.bytes(0, 2)? != b"IN" {
            return Err(disk.corrupt(0, "log changes an inode where there is none"));
        }
        if is_later(disk.u64_be(112)?, lsn) {
            return Ok(());
        }
        let head = raw.get_mut(..core.len()).unwrap_or_default();
        head.copy_from_slice(&core);
        let literal = CORE_LEN;
        let skip = match usize::from(raw.get(82).copied().unwrap_or(0)).saturating_mul(8) {
            0 => size.saturating_sub(literal),
            skip => skip,
        };
        let area = raw.get_mut(literal..).unwrap_or_default();
        let (data, attr) = area
            .split_at_mut_checked(skip)
            .ok_or_else(|| corrupt("logged inode's attribute fork begins outside it"))?;
        let mut regions = item.regions.iter().skip(2);
        if changed & fields::DEVICE != 0 {
            let number = f.u32_le(device)?.to_be_bytes();
            data.get_mut(..4)
                .unwrap_or_default()
                .copy_from_slice(&number);
        }
        let forks = [
            (data, fields::DATA, fields::DATA_ROOT),
            (attr, fields::ATTR, fields::ATTR_ROOT),
        ];
        for (fork, any, root) in forks {
            if changed & any == 0 {
                continue;
            }
            // An empty fork has no region.
            let Some(region) = regions.next() else { break };
            if changed & root == 0 {
                let len = region.len().min(fork.len());
                let (part, _) = fork.split_at_mut(len);
                part.copy_from_slice(region.get(..len).unwrap_or_default());
            } else {
                pack_root(fork, region)?;
            }
        }
        self.inodes.insert(offset, lsn);
        self.write(offset, &raw)
    }
}

/// The core as on the disk, from how it was logged.
fn turned(logged: &[u8]) -> Result<Vec<u8>> {
    let f = Fields::new(logged, "logged inode", 0);
    let mut core = f.bytes(0, CORE_LEN)?.to_vec();
    if f.u16_le(0)? != 0x494e || f.u8(4)? != 3 {
        return Err(f.corrupt(0, "not the core of a version 3 inode"));
    }
    let bigtime = f.u64_le(120)? & FLAG2_BIGTIME != 0;
    let mut turn = |at: usize, width: usize| {
        let end = at.saturating_add(width);
        core.get_mut(at..end).unwrap_or_default().reverse();
    };
    for (at, width) in CORE {
        turn(*at, *width);
    }
    for at in [32usize, 40, 48, 144] {
        if bigtime {
            turn(at, 8);
        } else {
            turn(at, 4);
            turn(at.saturating_add(4), 4);
        }
    }
    Ok(core)
}

/// Packs the block of a tree's root into a fork.
fn pack_root(fork: &mut [u8], block: &[u8]) -> Result<()> {
    /// Bytes before the keys of a block of version 5.
    const HEADER: usize = 72;
    let f = Fields::new(block, "logged root of an extent tree", 0);
    let records = usize::from(f.u16_be(6)?);
    let room = fork.len().saturating_sub(4) / 16;
    let stored = block.len().saturating_sub(HEADER) / 16;
    if records > room || records > stored {
        return Err(f.corrupt(6, "root has more records than its fork holds"));
    }
    let len = records.saturating_mul(8);
    let pointers = HEADER.saturating_add(stored.saturating_mul(8));
    let packed = 4usize.saturating_add(room.saturating_mul(8));
    let parts = [
        (0, f.bytes(4, 4)?),
        (4, f.bytes(HEADER, len)?),
        (packed, f.bytes(pointers, len)?),
    ];
    for (at, bytes) in parts {
        let end = at.saturating_add(bytes.len());
        let target = fork
            .get_mut(at..end)
            .ok_or_else(|| corrupt("fork has no room for a root"))?;
        target.copy_from_slice(bytes);
    }
    Ok(())
}
