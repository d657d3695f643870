//! Directories: their slots, each with its place on the disk, and the entries these make.

use rehost_block::{Error, Result};

use super::Fat;
use super::boot::Root;
use super::entry::{DELETED, DIRECTORY, LABEL, LEN, LONG, Short, shown};
use super::name::{Pieces, folded};
use super::table::Row;
use crate::number::{length, wide};

/// Most bytes of a directory: 65536 entries (the specification's limit).
pub(super) const MOST_BYTES: u64 = 2 << 20;

/// Which directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The top directory of FAT12 and FAT16.
    Fixed,
    /// One that is a chain from this cluster on.
    Chain(u32),
}

/// A file or directory in a directory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// As it is compared, in its long form and in its short one.
    folded: [Vec<u8>; 2],
    pub(super) short: Short,
    /// Slots it takes in the directory; the last is that of the short entry.
    pub(super) slots: std::ops::Range<usize>,
    /// Byte offset of the short entry on the disk.
    pub(super) at: u64,
}

impl Entry {
    pub(super) fn is_called(&self, folded: &[u8]) -> bool {
        self.folded.iter().any(|name| name == folded)
    }
}

/// A directory that was read.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    /// All slots, deleted and unused ones included.
    pub(super) slots: Vec<[u8; LEN]>,
    /// Where they are: byte offsets on the disk, and lengths.
    pub(super) parts: Vec<(u64, u64)>,
    /// The chain, for one that is not fixed.
    pub(super) rows: Vec<Row>,
}

impl Listing {
    /// Byte offset of a slot on the disk.
    pub(super) fn place(&self, slot: usize) -> Option<u64> {
        let mut left = wide(slot).saturating_mul(wide(LEN));
        for (at, len) in &self.parts {
            if left < *len {
                return Some(at.saturating_add(left));
            }
            left = left.saturating_sub(*len);
        }
        None
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Entry> {
        let name = folded(name);
        self.entries.iter().find(|entry| entry.is_called(&name))
    }
}

impl Fat {
    pub(super) fn root_place(&self) -> Place {
        match self.boot.root {
            Root::Fixed { .. } => Place::Fixed,
            Root::Cluster(first) => Place::Chain(first),
        }
    }

    /// Reads a directory, of which the error messages say where they found what.
    pub(super) fn list(&self, place: Place) -> Result<Listing> {
        let (parts, rows) = match (place, self.boot.root) {
            (Place::Fixed, Root::Fixed { at, len }) => (vec![(at, len)], Vec::new()),
            (Place::Fixed, Root::Cluster(_)) => {
                return Err(Error::internal("the root of FAT32 is a chain"));
            }
            (Place::Chain(first), _) => {
                let most = self.boot.clusters_for(MOST_BYTES);
                let rows = self.table.chain(first, most.saturating_add(1))?;
                let count: u64 = rows.iter().map(|row| u64::from(row.count)).sum();
                if count > most {
                    return Err(self
                        .table
                        .corrupt(first, "directory is longer than 65536 entries"));
                }
                let part = |row: &Row| {
                    let len = u64::from(row.count).saturating_mul(self.boot.cluster);
                    (self.boot.offset(row.first), len)
                };
                (rows.iter().map(part).collect(), rows)
            }
        };
        let mut slots = Vec::new();
        for (at, len) in &parts {
            let mut bytes = vec![0; length(*len)?];
            self.disk
                .read_at(&mut bytes, *at)
                .map_err(|error| error.in_structure("directory"))?;
            slots.extend_from_slice(bytes.as_chunks::<LEN>().0);
        }
        let mut listing = Listing {
            entries: Vec::new(),
            slots,
            parts,
            rows,
        };
        listing.entries = self.entries(&listing)?;
        Ok(listing)
    }

    fn entries(&self, listing: &Listing) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut pieces = Pieces::default();
        for (slot, raw) in listing.slots.iter().enumerate() {
            let [head, .., _] = *raw;
            let attributes = raw.get(11).copied().unwrap_or(0);
            if head == 0 {
                break;
            }
            if head != DELETED && attributes & 0x3f == LONG {
                pieces.take(raw)?;
                continue;
            }
            let before = std::mem::take(&mut pieces);
            let dots = raw.starts_with(b".          ") || raw.starts_with(b"..         ");
            if head == DELETED || attributes & LABEL != 0 || dots {
                continue;
            }
            let at = listing.place(slot).unwrap_or(0);
            let short = Short::parse(*raw, at, self.boot.width)?;
            let plain = shown(raw).into_bytes();
            let long = before.finish(&short.name());
            let pieces = if long.is_some() { before.len() } else { 0 };
            let name = long.unwrap_or_else(|| plain.clone());
            let harmful = matches!(&name[..], b"" | b"." | b"..");
            if harmful || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
                return Err(Error::corrupt(format!(
                    "'{}' cannot be the name of a file",
                    String::from_utf8_lossy(&name).escape_debug()
                ))
                .in_structure("directory entry")
                .at(at));
            }
            found.push(Entry {
                folded: [folded(&name), folded(&plain)],
                name,
                short,
                slots: slot.saturating_sub(pieces)..slot.saturating_add(1),
                at,
            });
        }
        Ok(found)
    }

    /// The directory that an entry names.
    pub(super) fn place_of(&self, short: &Short, at: u64) -> Result<Place> {
        if short.attributes & DIRECTORY == 0 {
            return Err(Error::usage("it is not a directory"));
        }
        self.check_first(short, at)?;
        if self.boot.root == Root::Cluster(short.first) {
            return Err(Error::corrupt("a directory contains the top directory")
                .in_structure("directory entry")
                .at(at));
        }
        self.check_parent(short, at)?;
        Ok(Place::Chain(short.first))
    }

    /// Refuses a directory whose `..` is not the one that its entry at `at` is in: so each has one
    /// parent, and none contains itself.
    fn check_parent(&self, short: &Short, at: u64) -> Result<()> {
        let place = self.boot.offset(short.first).saturating_add(wide(LEN));
        let mut raw = [0; LEN];
        self.disk
            .read_at(&mut raw, place)
            .map_err(|error| error.in_structure("directory"))?;
        let wrong = |what: &str| {
            Error::corrupt(what)
                .in_structure("directory entry")
                .at(place)
                .hint("run fsck.fat on a copy of the original")
        };
        if !raw.starts_with(b"..         ") {
            return Err(wrong("directory has no entry for its parent"));
        }
        let named = Short::parse(raw, place, self.boot.width)?.first;
        let inside = match (self.boot.root, named) {
            (Root::Fixed { at: from, len }, 0) => (from..from.saturating_add(len)).contains(&at),
            (root, named) => {
                let first = match root {
                    Root::Cluster(first) if named == 0 => first,
                    _ => named,
                };
                let here = self.boot.cluster_of(at);
                let most = self.boot.clusters_for(MOST_BYTES);
                let rows = if first < 2 || first >= self.boot.end() {
                    Vec::new()
                } else {
                    self.table.chain(first, most)?
                };
                here.is_some_and(|here| rows.iter().any(|row| row.clusters().contains(&here)))
            }
        };
        if inside {
            Ok(())
        } else {
            Err(wrong("directory says that another one is its parent"))
        }
    }

    /// Refuses an entry whose content begins outside the filesystem.
    pub(super) fn check_first(&self, short: &Short, at: u64) -> Result<()> {
        if short.first < 2 || short.first >= self.boot.end() {
            return Err(Error::corrupt("content begins outside the filesystem")
                .in_structure("directory entry")
                .at(at)
                .mismatch(
                    format!("a cluster from 2 to {}", self.boot.end().saturating_sub(1)),
                    short.first,
                ));
        }
        Ok(())
    }
}
