//! The file allocation tables: following chains, and changing all copies alike.
//!
//! Each entry is compared with its copies where it is met. A chain that is followed is bounded by
//! the file's length (at most 4 GiB) or a directory's (2 MiB), and a loop in it is found with
//! Brent's algorithm, which needs no memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, DiskMut, Error, Result, round_up};

use super::boot::{Boot, Width};
use super::number::put;
use crate::number::{div, length, rem, wide};

/// Bytes of each table that are read at a time. A FAT12 table is smaller, so that no entry lies in two.
const PAGE: u64 = 64 << 10;

/// Pages kept, at most: 8 MiB with two tables.
const MOST_PAGES: usize = 64;

/// What a table entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Free,
    Next(u32),
    Bad,
    End,
}

/// A row of clusters that lie one after another on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Its first cluster.
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Row {
    /// Its cluster numbers.
    pub(super) fn clusters(self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Appends a cluster to rows, lengthening the last one where it continues it.
pub(super) fn push_cluster(rows: &mut Vec<Row>, cluster: u32) {
    match rows.last_mut() {
        Some(row) if row.clusters().end == cluster => row.count = row.count.saturating_add(1),
        _ => rows.push(Row {
            first: cluster,
            count: 1,
        }),
    }
}

type Page = Arc<Vec<Vec<u8>>>;

/// The tables of one filesystem.
#[derive(Debug)]
pub(super) struct Table {
    disk: Arc<dyn Disk>,
    width: Width,
    copies: Vec<u64>,
    end: u32,
    /// Bytes of one table that say something.
    len: u64,
    sector: u64,
    pages: Mutex<HashMap<u64, Page>>,
}

impl Table {
    pub(super) fn new(disk: Arc<dyn Disk>, boot: &Boot) -> Self {
        let entries = u64::from(boot.end());
        let len = match boot.width {
            Width::Fat12 => entries.saturating_mul(3).div_ceil(2),
            Width::Fat16 => entries.saturating_mul(2),
            Width::Fat32 => entries.saturating_mul(4),
        };
        Self {
            disk,
            width: boot.width,
            copies: boot.tables.clone(),
            end: boot.end(),
            len: round_up(len, boot.sector),
            sector: boot.sector,
            pages: Mutex::default(),
        }
    }

    /// Byte offset of an entry inside a table.
    fn within(&self, cluster: u32) -> u64 {
        let cluster = u64::from(cluster);
        match self.width {
            Width::Fat12 => cluster.saturating_add(cluster / 2),
            Width::Fat16 => cluster.saturating_mul(2),
            Width::Fat32 => cluster.saturating_mul(4),
        }
    }

    /// Byte offset on the disk of an entry of the first table.
    pub(super) fn place(&self, cluster: u32) -> u64 {
        let start = self.copies.first().copied().unwrap_or(0);
        start.saturating_add(self.within(cluster))
    }

    fn page(&self, number: u64) -> Result<Page> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = pages.get(&number) {
            return Ok(Arc::clone(page));
        }
        let from = number.saturating_mul(PAGE);
        let len = length(self.len.saturating_sub(from).min(PAGE))?;
        let mut page = Vec::with_capacity(self.copies.len());
        for start in &self.copies {
            let mut bytes = vec![0; len];
            self.disk
                .read_at(&mut bytes, start.saturating_add(from))
                .map_err(|error| error.in_structure("file allocation table"))?;
            page.push(bytes);
        }
        let page = Arc::new(page);
        if pages.len() >= MOST_PAGES {
            pages.clear();
        }
        pages.insert(number, Arc::clone(&page));
        Ok(page)
    }

    /// The bits of an entry in one copy of its page.
    fn extract(&self, bytes: &[u8], cluster: u32) -> Option<u32> {
        let at = usize::try_from(rem(self.within(cluster), PAGE)).ok()?;
        let rest = bytes.get(at..)?;
        Some(match self.width {
            Width::Fat12 => {
                let both = u32::from(u16::from_le_bytes(*rest.first_chunk()?));
                if cluster.is_multiple_of(2) {
                    both & 0xfff
                } else {
                    both >> 4
                }
            }
            Width::Fat16 => u32::from(u16::from_le_bytes(*rest.first_chunk()?)),
            Width::Fat32 => u32::from_le_bytes(*rest.first_chunk()?) & 0x0fff_ffff,
        })
    }

    /// The raw value of any entry, the first two included, in the first table.
    pub(super) fn raw(&self, cluster: u32) -> Result<u32> {
        let page = self.page(div(self.within(cluster), PAGE))?;
        page.first()
            .and_then(|bytes| self.extract(bytes, cluster))
            .ok_or_else(|| Error::internal("a table entry is outside its page"))
    }

    /// What the entry of `cluster` says; all tables must say it.
    pub(super) fn get(&self, cluster: u32) -> Result<Link> {
        if cluster < 2 || cluster >= self.end {
            return Err(Error::internal(format!("there is no cluster {cluster}")));
        }
        let page = self.page(div(self.within(cluster), PAGE))?;
        let mut values = page.iter().map(|bytes| self.extract(bytes, cluster));
        let value = values
            .next()
            .flatten()
            .ok_or_else(|| Error::internal("a table entry is outside its page"))?;
        for (copy, start) in values.zip(self.copies.iter().skip(1)) {
            if copy != Some(value) {
                return Err(Error::corrupt(format!(
                    "file allocation tables differ about cluster {cluster}"
                ))
                .in_structure("file allocation table")
                .at(start.saturating_add(self.within(cluster)))
                .mismatch(value, copy.unwrap_or(0))
                .hint("run fsck.fat on a copy of the original"));
            }
        }
        let top = match self.width {
            Width::Fat12 => 0xfff,
            Width::Fat16 => 0xffff,
            Width::Fat32 => 0x0fff_ffff,
        };
        // The last eight values end a chain, the one before them marks a bad cluster.
        match value {
            0 => Ok(Link::Free),
            next if next >= 2 && next < self.end => Ok(Link::Next(next)),
            last if last >= top & !7 => Ok(Link::End),
            bad if bad == top & !8 => Ok(Link::Bad),
            other => Err(self
                .corrupt(cluster, "chain leads outside the filesystem")
                .mismatch(
                    format!("a cluster from 2 to {}", self.end.saturating_sub(1)),
                    other,
                )),
        }
    }

    /// An error about the entry of `cluster`.
    pub(super) fn corrupt(&self, cluster: u32, what: &str) -> Error {
        Error::corrupt(what)
            .in_structure("file allocation table")
            .at(self.place(cluster))
    }

    /// The cluster after `cluster`, `None` at the chain's end.
    pub(super) fn next(&self, cluster: u32) -> Result<Option<u32>> {
        match self.get(cluster)? {
            Link::Next(next) => Ok(Some(next)),
            Link::End => Ok(None),
            Link::Free => Err(self.corrupt(cluster, "chain contains a free cluster")),
            Link::Bad => Err(self.corrupt(cluster, "chain contains a bad cluster")),
        }
    }

    /// The chain from `first`, at most `most` clusters of it.
    pub(super) fn chain(&self, first: u32, most: u64) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut at = first;
        // Brent: `mark` stays for 1, 2, 4, … steps; a loop comes back to it.
        let (mut mark, mut power, mut steps) = (first, 1u64, 0u64);
        // Ends after `most` rounds.
        for _ in 0..most {
            push_cluster(&mut rows, at);
            let Some(next) = self.next(at)? else { break };
            if next == mark {
                return Err(self.corrupt(at, "chain loops"));
            }
            steps = steps.saturating_add(1);
            if steps == power {
                (mark, power, steps) = (next, power.saturating_mul(2), 0);
            }
            at = next;
        }
        Ok(rows)
    }

    /// Writes entries, given by cluster, into the first table and then into the second.
    pub(super) fn store(&self, disk: &dyn DiskMut, changes: &BTreeMap<u32, u32>) -> Result<()> {
        let mut pages: BTreeMap<u64, Vec<(u32, u32)>> = BTreeMap::new();
        for (cluster, value) in changes {
            let page = div(self.within(*cluster), PAGE);
            pages.entry(page).or_default().push((*cluster, *value));
        }
        for (nth, start) in self.copies.iter().enumerate() {
            for (number, entries) in &pages {
                let page = self.page(*number)?;
                let mut bytes = page.get(nth).cloned().unwrap_or_default();
                for (cluster, value) in entries {
                    self.insert(&mut bytes, *cluster, *value)?;
                }
                let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
                    continue;
                };
                // Whole sectors, from that of the first entry to that of the last one's last byte.
                let from = rem(self.within(first.0), PAGE);
                let from = from.saturating_sub(rem(from, self.sector));
                let to = rem(self.within(last.0), PAGE).saturating_add(4);
                let to = round_up(to, self.sector).min(wide(bytes.len()));
                let part = bytes.get(length(from)?..length(to)?).unwrap_or_default();
                let at = number.saturating_mul(PAGE).saturating_add(from);
                disk.write_at(part, start.saturating_add(at))?;
            }
        }
        let mut known = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for number in pages.keys() {
            known.remove(number);
        }
        Ok(())
    }

    fn insert(&self, bytes: &mut [u8], cluster: u32, value: u32) -> Result<()> {
        let at = length(rem(self.within(cluster), PAGE))?;
        let there = |len: usize| {
            at.checked_add(len)
                .and_then(|end| bytes.get(at..end))
                .map(|part| {
                    part.iter()
                        .rev()
                        .fold(0, |all, byte| all << 8 | u32::from(*byte))
                })
                .ok_or_else(|| Error::internal("a table entry is outside its page"))
        };
        let (len, whole) = match self.width {
            Width::Fat12 if cluster.is_multiple_of(2) => (2, there(2)? & 0xf000 | value & 0xfff),
            Width::Fat12 => (2, there(2)? & 0x000f | (value & 0xfff) << 4),
            Width::Fat16 => (2, value & 0xffff),
            Width::Fat32 => (4, there(4)? & 0xf000_0000 | value & 0x0fff_ffff),
        };
        let raw = whole.to_le_bytes();
        put(bytes, at, raw.get(..len).unwrap_or_default())
    }
}
