//! The refcounts as the image states them: its refcount table and blocks.
//!
//! QEMU `docs/interop/qcow2.txt`, "Host cluster management".

use rehost_block::{Result, Storage};

use crate::check::{Check, Repair};

use super::super::bits::{MAX_TABLE_BYTES, Width};
use super::super::entry::{amount, index};
use super::super::header::Header;
use super::super::tables::words;
use super::entries::wrong;
use super::tally::{Kind, Place, Tally};

/// Bits 0 to 8 of a table entry mean nothing.
const RESERVED: u64 = 0x1ff;

/// Whether the refcounts can be mended where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Every block is where it should be.
    Sound,
    /// The table or a block is not: all are written anew.
    Broken,
}

/// The table, and how to read the blocks.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) width: Width,
    /// Clusters whose counts one block holds.
    pub(super) per_block: u64,
    /// Offsets of the blocks; 0 where there is none that can be used.
    pub(super) blocks: Vec<u64>,
    pub(super) state: State,
    table: (u64, u64),
}

impl Stored {
    /// The table that `header` names; notes what is wrong with it.
    pub(super) fn read(header: &Header, storage: &dyn Storage, check: &mut Check) -> Result<Self> {
        let geometry = &header.geometry;
        let areas = &header.areas;
        let width = Width::new(areas.refcount_order);
        let start = areas.refcount_table;
        let len = u64::from(areas.refcount_clusters).saturating_mul(geometry.cluster_size());
        let mut stored = Self {
            width,
            per_block: width.per_block(geometry.cluster_size()).max(1),
            blocks: Vec::new(),
            state: State::Broken,
            table: (start, 0),
        };
        let place = Place {
            structure: "header",
            offset: 48,
        };
        let size = storage.size();
        let text = if len == 0 || start == 0 {
            "there is no refcount table".to_owned()
        } else if !geometry.is_aligned(start) {
            "refcount table is not at a cluster boundary".to_owned()
        } else if len > MAX_TABLE_BYTES {
            format!("refcount table is too large: {len} bytes, at most {MAX_TABLE_BYTES}")
        } else if start.saturating_add(len) > size {
            "refcount table lies outside the file".to_owned()
        } else {
            stored.state = State::Sound;
            stored.table = (start, len);
            stored.blocks = words(storage, start, len / 8)?;
            String::new()
        };
        if stored.state == State::Broken {
            check.find(wrong(place, Repair::Safe, text));
        }
        for (at, block) in stored.blocks.iter_mut().enumerate() {
            let place = Place {
                structure: "refcount table",
                offset: start.saturating_add(amount(at).saturating_mul(8)),
            };
            let text = if *block & RESERVED != 0 {
                "reserved bits are set"
            } else if !geometry.is_aligned(*block) {
                "refcount block is not at a cluster boundary"
            } else if *block != 0 && block.saturating_add(geometry.cluster_size()) > size {
                "refcount block lies outside the file"
            } else {
                continue;
            };
            check.find(wrong(place, Repair::Safe, text));
            *block = 0;
            stored.state = State::Broken;
        }
        Ok(stored)
    }

    /// Counts the references of the table to itself and its blocks.
    pub(super) fn count(&self, header: &Header, tally: &mut Tally, check: &mut Check) {
        let place = |structure, offset| Place { structure, offset };
        tally.refer(Kind::Refcounts, self.table, 1, place("header", 48), check);
        for (at, block) in self.blocks.iter().enumerate() {
            if *block != 0 {
                let entry = self.table.0.saturating_add(amount(at).saturating_mul(8));
                let range = (*block, header.geometry.cluster_size());
                let place = place("refcount table", entry);
                tally.refer(Kind::Refcounts, range, 1, place, check);
            }
        }
    }

    /// Whether block or table overlaps something else, as far as `tally` sees.
    pub(super) fn overlaps(&self, header: &Header, tally: &Tally) -> bool {
        let table = header.geometry.cluster_of(self.table.0);
        let clusters = table..table.saturating_add(u64::from(header.areas.refcount_clusters));
        let blocks = self
            .blocks
            .iter()
            .filter(|block| **block != 0)
            .map(|block| header.geometry.cluster_of(*block));
        clusters
            .filter(|_| self.table.1 > 0)
            .chain(blocks)
            .any(|cluster| tally.overlap(cluster).is_some())
    }

    /// The block that holds the count of `cluster`: its offset, if there is one.
    pub(super) fn block_of(&self, cluster: u64) -> Option<u64> {
        let at = index(cluster.checked_div(self.per_block).unwrap_or(0));
        self.blocks.get(at).copied().filter(|block| *block != 0)
    }

    /// The bytes of the block at `offset`.
    pub(super) fn block(
        &self,
        header: &Header,
        storage: &dyn Storage,
        offset: Option<u64>,
    ) -> Result<Vec<u8>> {
        let mut bytes = vec![0; index(header.geometry.cluster_size())];
        if let Some(offset) = offset {
            storage
                .read_at(&mut bytes, offset)
                .map_err(|error| error.in_structure("refcount block"))?;
        }
        Ok(bytes)
    }
}
