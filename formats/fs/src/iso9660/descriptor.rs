//! Volume descriptors: from sector 16 on, one a sector, up to a terminator.
//!
//! Source: ECMA-119, 4th edition, sections 8.1 to 8.5; Joliet specification (Microsoft, 1995), section 3.

use rehost_block::{Disk, Error, Fields, Result};

use super::SECTOR;
use crate::number::length;

const NAME: &str = "volume descriptor";

/// Descriptors looked at, at most. Ours: real disks have a handful.
const MOST: u64 = 64;

/// Where a tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    /// Byte offset of its root directory.
    pub(super) root: u64,
}

/// What the descriptors say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Bytes of a logical block.
    pub(super) block: u32,
    /// Size of the volume in logical blocks.
    pub(super) blocks: u32,
    pub(super) primary: Tree,
    pub(super) joliet: Option<Tree>,
}

impl Descriptors {
    /// Reads them from `disk`.
    pub(super) fn read(disk: &dyn Disk) -> Result<Self> {
        let mut primary = None;
        let mut joliet = None;
        for nth in 16..MOST.saturating_add(16) {
            let at = nth.saturating_mul(SECTOR);
            if at.saturating_add(SECTOR) > disk.size() {
                break;
            }
            let mut raw = vec![0; length(SECTOR)?];
            disk.read_at(&mut raw, at)?;
            let f = Fields::new(&raw, NAME, at);
            if f.bytes(1, 5)? != b"CD001" {
                break;
            }
            match f.u8(0)? {
                1 if primary.is_none() => primary = Some(volume(&f)?),
                2 if joliet.is_none() && is_joliet(&f)? => joliet = Some(volume(&f)?.2),
                255 => break,
                _ => {}
            }
        }
        let (block, blocks, primary) = primary.ok_or_else(|| {
            Error::corrupt("no primary volume descriptor")
                .in_structure(NAME)
                .at(SECTOR.saturating_mul(16))
        })?;
        Ok(Self {
            block,
            blocks,
            primary,
            joliet,
        })
    }
}

/// One of the three escape sequences of UCS-2, and no others beside it.
fn is_joliet(f: &Fields<'_>) -> Result<bool> {
    Ok(f.u8(7)? & 1 == 0 && matches!(f.bytes(88, 3)?, b"%/@" | b"%/C" | b"%/E"))
}

/// Size of a block, number of blocks, and the tree.
fn volume(f: &Fields<'_>) -> Result<(u32, u32, Tree)> {
    let block = u32::from(f.u16_le(128)?);
    if !matches!(block, 512 | 1024 | 2048) {
        return Err(f
            .corrupt(128, "impossible size of logical blocks")
            .mismatch("512, 1024 or 2048", block));
    }
    // The root's own record is in the descriptor: 34 bytes.
    let first = u64::from(f.u32_le(158)?).saturating_add(u64::from(f.u8(157)?));
    let root = first.saturating_mul(u64::from(block));
    if f.u8(156)? < 34 || f.u8(181)? & 2 == 0 {
        return Err(f.corrupt(156, "the root is not a directory"));
    }
    Ok((block, f.u32_le(80)?, Tree { root }))
}
