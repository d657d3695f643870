//! Every reference of an image: each L1 and L2 table once, however many snapshots share it.

use std::collections::HashSet;

use rehost_block::{Error, Result, Storage};

use crate::check::{Check, Finding, Repair};

use super::super::bitmap;
use super::super::entry::{OFFSET_MASK, Raw, Rules, amount, index};
use super::super::header::Header;
use super::super::snapshot_table::SnapshotTable;
use super::super::tables::words;
use super::entries::{Held, examine_l1, examine_l2, wrong};
use super::tally::{Kind, Place, Tally};

/// L1 entries of all snapshots together. Ours: a thousand snapshots of a 4 TiB disk, and 200 MiB of
/// memory where none share a table.
const MAX_L1_ENTRIES: u64 = 8 << 20;
/// L2 tables collected before those that are the same are put together.
const COLLECTED: usize = 1 << 20;
/// Clusters of one file. QEMU's: its check counts them in a C int.
const MAX_CLUSTERS: u64 = (1 << 31) - 1;

/// One L1 table.
#[derive(Debug, Clone, Copy)]
pub(super) struct L1 {
    pub(super) offset: u64,
    pub(super) entries: u64,
    /// Where the offset is stored.
    pub(super) named_at: Place,
}

/// An L2 table, and from how many L1 entries it is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    pub(super) offset: u64,
    pub(super) weight: u64,
    /// Where one of the L1 entries is.
    place: u64,
}

impl Shared {
    pub(super) const fn named_at(&self) -> Place {
        Place {
            structure: "L1 table",
            offset: self.place,
        }
    }
}

/// What of an image leads to its clusters.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: &'a Header,
    pub(super) rules: Rules,
    pub(super) file_size: u64,
    snapshots: SnapshotTable,
    bitmaps: Vec<bitmap::Entry>,
    /// The active layer's first.
    pub(super) l1s: Vec<L1>,
    /// By offset.
    pub(super) l2s: Vec<Shared>,
    /// The active layer's L1 table as stored.
    pub(super) active: Vec<u64>,
}

impl<'a> Scan<'a> {
    /// Reads everything above the L2 tables; notes what is wrong with it.
    pub(super) fn new(
        storage: &'a dyn Storage,
        header: &'a Header,
        check: &mut Check,
    ) -> Result<Self> {
        let clusters = storage.size().div_ceil(header.geometry.unit().get());
        if clusters > MAX_CLUSTERS {
            return Err(Error::unsupported("file is too large to be checked")
                .mismatch(format!("at most {MAX_CLUSTERS} clusters"), clusters));
        }
        let rules = Rules {
            geometry: header.geometry,
            zero_clusters: header.version > 2,
            data_file: header.has_data_file,
        };
        let snapshots = SnapshotTable::read(header, storage).unwrap_or_else(|error| {
            check.find(fault(&error, 64));
            SnapshotTable::default()
        });
        let bitmaps = header
            .areas
            .bitmap_directory()
            .and_then(|directory| match directory {
                Some(directory) => bitmap::read(&directory, &header.geometry, storage),
                None => Ok(Vec::new()),
            })
            .unwrap_or_else(|error| {
                check.find(fault(&error, 0));
                Vec::new()
            });
        let mut scan = Self {
            storage,
            header,
            rules,
            file_size: storage.size(),
            snapshots,
            bitmaps,
            l1s: Vec::new(),
            l2s: Vec::new(),
            active: Vec::new(),
        };
        scan.find_l1s(check);
        scan.find_l2s(check)?;
        Ok(scan)
    }

    fn find_l1s(&mut self, check: &mut Check) {
        let active = L1 {
            offset: self.header.l1_offset,
            entries: self.header.l1_entries,
            named_at: Place {
                structure: "header",
                offset: 40,
            },
        };
        let others = self.snapshots.entries.iter().map(|entry| L1 {
            offset: entry.l1_offset,
            entries: entry.l1_entries,
            named_at: Place {
                structure: "snapshot table",
                offset: entry.place,
            },
        });
        for l1 in std::iter::once(active).chain(others) {
            let end = l1.offset.saturating_add(l1.entries.saturating_mul(8));
            if !self.rules.geometry.is_aligned(l1.offset) {
                let text = "L1 table is not at a cluster boundary";
                check.find(wrong(l1.named_at, Repair::No, text));
            } else if end > self.file_size {
                let text = format!("L1 table reaches to {end}, past the end of the file");
                check.find(wrong(l1.named_at, Repair::No, text));
            } else {
                self.l1s.push(l1);
            }
        }
        let mut ids = HashSet::new();
        for snapshot in &self.snapshots.entries {
            if !ids.insert(&snapshot.id) {
                let place = Place {
                    structure: "snapshot table",
                    offset: snapshot.place,
                };
                check.find(wrong(place, Repair::No, "two snapshots have the same id"));
            }
        }
    }

    fn find_l2s(&mut self, check: &mut Check) -> Result<()> {
        let total: u64 = self.l1s.iter().map(|l1| l1.entries).sum();
        if total > MAX_L1_ENTRIES {
            return Err(Error::unsupported("snapshots are too many to be checked")
                .in_structure("snapshot table")
                .mismatch(format!("at most {MAX_L1_ENTRIES} L1 entries"), total));
        }
        let mut merged = 0;
        for at in 0..self.l1s.len() {
            let Some(l1) = self.l1s.get(at).copied() else {
                break;
            };
            let table = words(self.storage, l1.offset, l1.entries)?;
            for (at, entry) in table.iter().enumerate() {
                let place = Place {
                    structure: "L1 table",
                    offset: l1.offset.saturating_add(amount(at).saturating_mul(8)),
                };
                let l2 = examine_l1(&self.rules, *entry, place, &mut |x| check.find(x));
                self.l2s.extend(l2.map(|offset| Shared {
                    offset,
                    weight: 1,
                    place: place.offset,
                }));
            }
            if l1.named_at.structure == "header" {
                self.active = table;
            }
            if self.l2s.len().saturating_sub(merged) > COLLECTED {
                self.merge_l2s();
                merged = self.l2s.len();
            }
        }
        self.merge_l2s();
        Ok(())
    }

    /// Puts entries that lead to the same table together.
    fn merge_l2s(&mut self) {
        self.l2s
            .sort_unstable_by_key(|shared| (shared.offset, shared.place));
        self.l2s.dedup_by(|next, kept| {
            let same = next.offset == kept.offset;
            if same {
                kept.weight = kept.weight.saturating_add(next.weight);
            }
            same
        });
    }

    /// The entries of the L2 table at `offset`; none when it is not wholly in the file.
    pub(super) fn l2(&self, offset: u64) -> Result<Vec<Raw>> {
        let size = self.header.geometry.cluster_size();
        if offset.saturating_add(size) > self.file_size {
            return Ok(Vec::new());
        }
        let table = words(self.storage, offset, size / 8)?;
        Ok(raw_entries(&table, self.header.geometry.extended()))
    }

    /// Counts every reference but the refcounts' own.
    pub(super) fn count(&self, tally: &mut Tally, check: &mut Check) -> Result<()> {
        let header = self.header;
        let size = header.geometry.cluster_size();
        let at = |structure, offset| Place { structure, offset };
        tally.refer(Kind::Header, (0, size), 1, at("header", 0), check);
        if let Some(area) = header.areas.encryption_header {
            let place = at("header extension", 0);
            tally.refer(Kind::Header, (area.offset, area.len), 1, place, check);
        }
        let table = (header.areas.snapshots, self.snapshots.len);
        tally.refer(Kind::Snapshots, table, 1, at("header", 64), check);
        for l1 in &self.l1s {
            let range = (l1.offset, l1.entries.saturating_mul(8));
            tally.refer(Kind::L1, range, 1, l1.named_at, check);
        }
        self.count_bitmaps(tally, check)?;
        for shared in &self.l2s {
            let range = (shared.offset, size);
            tally.refer(Kind::L2, range, shared.weight, shared.named_at(), check);
            self.count_l2(shared, tally, check)?;
        }
        Ok(())
    }

    fn count_l2(&self, shared: &Shared, tally: &mut Tally, check: &mut Check) -> Result<()> {
        let geometry = &self.header.geometry;
        let in_file = shared.offset.saturating_add(geometry.cluster_size()) <= self.file_size;
        let whole = !geometry.is_aligned(self.file_size);
        if !in_file && whole && shared.offset < self.file_size {
            let text = "L2 table is cut off by the end of the file";
            tally.find(check, wrong(shared.named_at(), Repair::No, text));
        }
        for (at, raw) in self.l2(shared.offset)?.into_iter().enumerate() {
            let place = self.l2_place(shared.offset, at);
            let mut found = Vec::new();
            let held = examine_l2(&self.rules, raw, place, &mut |finding| found.push(finding));
            for finding in found {
                tally.find(check, finding);
            }
            match held {
                Held::Plain { host } if !self.header.has_data_file => {
                    let range = (host, geometry.cluster_size());
                    tally.refer(Kind::Data, range, shared.weight, place, check);
                }
                Held::Packed { offset, len } => {
                    tally.refer(Kind::Packed, (offset, len), shared.weight, place, check);
                }
                Held::Plain { .. } | Held::Nothing => {}
            }
        }
        Ok(())
    }

    /// Where entry `at` of the L2 table at `offset` is.
    pub(super) fn l2_place(&self, offset: u64, at: usize) -> Place {
        let skip = amount(at).saturating_mul(self.header.geometry.entry_bytes());
        Place {
            structure: "L2 table",
            offset: offset.saturating_add(skip),
        }
    }

    fn count_bitmaps(&self, tally: &mut Tally, check: &mut Check) -> Result<()> {
        let geometry = &self.header.geometry;
        if let Some(directory) = self.header.areas.bitmap_directory()? {
            let place = Place {
                structure: "bitmaps extension",
                offset: 0,
            };
            let area = (directory.area.offset, directory.area.len);
            tally.refer(Kind::Bitmaps, area, 1, place, check);
        }
        let mut total = 0u64;
        for bitmap in &self.bitmaps {
            total = total.saturating_add(bitmap.table_entries.saturating_mul(8));
            if total > self.file_size {
                let place = Place {
                    structure: "bitmap directory",
                    offset: bitmap.place,
                };
                let text = "bitmap tables are longer than the file, together";
                tally.find(check, wrong(place, Repair::No, text));
                break;
            }
            let place = Place {
                structure: "bitmap directory",
                offset: bitmap.place,
            };
            if bitmap.kind != 1 {
                let text = format!("bitmap has unknown type {}", bitmap.kind);
                tally.find(check, wrong(place, Repair::No, text));
            }
            let range = (bitmap.table, bitmap.table_entries.saturating_mul(8));
            tally.refer(Kind::Bitmaps, range, 1, place, check);
            let table = match bitmap.table(geometry, self.storage) {
                Ok(table) => table,
                Err(error) => {
                    tally.find(check, fault(&error, bitmap.place));
                    continue;
                }
            };
            for (at, entry) in table.into_iter().enumerate() {
                let place = Place {
                    structure: "bitmap table",
                    offset: bitmap.table.saturating_add(amount(at).saturating_mul(8)),
                };
                let offset = entry & OFFSET_MASK;
                let reserved = entry & !OFFSET_MASK;
                if reserved > 1 || reserved == 1 && offset != 0 {
                    tally.find(check, wrong(place, Repair::No, "reserved bits are set"));
                }
                if !geometry.is_aligned(offset) {
                    let text = format!("bitmap data offset {offset} is not at a cluster boundary");
                    tally.find(check, wrong(place, Repair::No, text));
                } else if offset != 0 {
                    let range = (offset, geometry.cluster_size());
                    tally.refer(Kind::Bitmaps, range, 1, place, check);
                }
            }
        }
        Ok(())
    }
}

/// A table's words as entries.
pub(super) fn raw_entries(table: &[u64], extended: bool) -> Vec<Raw> {
    let step = if extended { 2 } else { 1 };
    table
        .chunks(index(step))
        .map(|words| Raw {
            descriptor: words.first().copied().unwrap_or(0),
            bitmap: words.get(1).copied().unwrap_or(0),
        })
        .collect()
}

/// An error as a finding; `offset` where it does not know its own.
pub(super) fn fault(error: &Error, offset: u64) -> Finding {
    let place = Place {
        structure: error.structure().unwrap_or("header"),
        offset: error.offset().unwrap_or(offset),
    };
    wrong(place, Repair::No, error.to_string())
}
