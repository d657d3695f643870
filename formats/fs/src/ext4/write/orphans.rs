//! Orphans: files that a crash caught between their last name and their end, or being cut.
//!
//! They hang on a list from the superblock, linked through the deletion time. Clearing it is what
//! Linux does at mount (`ext4_orphan_cleanup`). The list's newer home, the orphan file, is left to
//! the guest's own kernel.

use std::collections::BTreeSet;

use rehost_block::{Error, Result};

use super::super::inode::{Node, flag};
use super::super::map::Extent;
use super::alloc::Run;
use super::change::Change;
use super::layout::maps_blocks;
use super::stamp::put32;
use crate::number::div_up;

impl Change<'_> {
    /// Clears the list.
    pub(super) fn clear_orphans(&mut self) -> Result<()> {
        let mut next = self.fs.sb.last_orphan;
        let mut seen = BTreeSet::new();
        // Ends because no inode may be on the list twice.
        while next != 0 {
            if !seen.insert(next) || next < self.fs.sb.first_ino {
                return Err(
                    Error::corrupt(format!("orphan list is damaged at inode {next}"))
                        .in_structure("superblock")
                        .hint("run e2fsck on a copy of the original"),
                );
            }
            let node = self.fs.stored_node(next)?;
            next = node.fields().u32_le(0x14)?;
            if node.links == 0 {
                self.delete_inode(&node)?;
            } else {
                self.cut(&node)?;
            }
        }
        self.fs.sb.last_orphan = 0;
        put32(&mut self.fs.sb.raw, 0xe8, 0)
    }

    /// Frees what a file has behind its end.
    fn cut(&mut self, node: &Node) -> Result<()> {
        let mut raw = node.raw.clone();
        put32(&mut raw, 0x14, 0)?;
        if maps_blocks(node, self.fs.sb.block_size) && !node.has(flag::INLINE_DATA) {
            let end = div_up(node.size, self.block_size());
            let mapping = self.fs.mapping(node)?;
            let mut kept: Vec<Extent> = Vec::new();
            for run in &mapping.extents {
                let keep = run.len.min(end.saturating_sub(run.file));
                if keep < run.len {
                    self.release(Run {
                        disk: run.disk.saturating_add(keep),
                        len: run.len.saturating_sub(keep),
                    })?;
                }
                if keep > 0 {
                    kept.push(Extent { len: keep, ..*run });
                }
            }
            self.release_nodes(node)?;
            let goal = self.home(node.number);
            self.set_map(node.number, &mut raw, &kept, goal)?;
        }
        self.put_inode(node.number, raw)
    }
}
