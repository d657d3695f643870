//! Symbolic links: in the inode, or in blocks of their own.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Symbolic Links". Version 5 puts one header
//! before the part of the target that lies in each run of blocks.

use rehost_block::Result;

use super::Xfs;
use super::check::{self, Block};
use super::inode::{Format, Node};
use crate::FileKind;
use crate::number::{length, wide};

/// The longest target (`XFS_SYMLINK_MAXLEN`).
const MOST: u64 = 1024;

impl Xfs {
    /// The target of the symbolic link `node`.
    pub(super) fn target(&self, node: &Node) -> Result<Vec<u8>> {
        node.expect(FileKind::Symlink, "a symbolic link")?;
        if node.size == 0 || node.size > MOST {
            return Err(node
                .corrupt("symbolic link has an impossible length")
                .mismatch(format!("1 to {MOST}"), node.size));
        }
        let fork = node.data()?;
        let target = if fork.format == Format::Local {
            node.local()?.to_vec()
        } else {
            self.remote_target(node)?
        };
        if target.contains(&0) {
            return Err(node.corrupt("symbolic link contains a zero byte"));
        }
        Ok(target)
    }

    fn remote_target(&self, node: &Node) -> Result<Vec<u8>> {
        let len = length(node.size)?;
        let mut target = Vec::with_capacity(len);
        for run in self.metadata_extents(node, &node.data()?)? {
            let left = len.saturating_sub(target.len());
            if left == 0 {
                break;
            }
            let size = run.count.saturating_mul(u64::from(self.sb.block_size));
            // A run is as long as the target needs: 1024 bytes in blocks of at most 64 KiB.
            if size > MOST.saturating_add(u64::from(self.sb.block_size)) {
                return Err(node.corrupt("symbolic link has too many blocks"));
            }
            let mut raw = vec![0; length(size)?];
            let offset = self.blocks.offset(run.disk);
            self.blocks.read_part(run.disk, 0, &mut raw)?;
            let block = Block {
                raw: &raw,
                structure: "symbolic link",
                offset,
                verify: self.verify(offset, raw.len()),
            };
            let f = block.fields();
            if self.sb.v5 {
                if f.bytes(0, 4)? != b"XSLM" {
                    return Err(f.corrupt(0, "no symbolic link"));
                }
                block.check(check::REMOTE, &self.sb, node.number)?;
                let here = super::count(u64::from(f.u32_be(8)?));
                if u64::from(f.u32_be(4)?) != wide(target.len()) || here > left {
                    return Err(f.corrupt(4, "target's parts do not fit together"));
                }
                target.extend_from_slice(f.bytes(56, here)?);
            } else {
                target.extend_from_slice(f.bytes(0, left.min(raw.len()))?);
            }
        }
        if target.len() == len {
            Ok(target)
        } else {
            Err(node.corrupt("symbolic link is cut off"))
        }
    }
}
