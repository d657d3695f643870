//! Directories: records one after another, in sectors.
//!
//! A directory that lies too deep for ISO 9660 (eight levels) is moved up, mostly to `rr_moved`: its new
//! place is marked and not listed, and in its old one is a record that stands for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use rehost_block::{Error, Result};

use super::record::{Record, starts};
use super::{Iso9660, Names, Node};
use crate::number::length;
use crate::{DirEntry, FileKind, Inode};

/// The largest directory, in bytes. Ours: half a million files.
const MOST: u64 = 64 << 20;

/// What a directory lists.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) entries: Vec<DirEntry>,
    places: HashMap<Vec<u8>, usize>,
}

/// What a name is found by: without regard to case where there is no Rock Ridge.
fn key(name: &[u8], names: Names) -> Vec<u8> {
    match names {
        Names::RockRidge { .. } => name.to_vec(),
        Names::Joliet | Names::Plain => name.to_ascii_lowercase(),
    }
}

impl Listing {
    pub(super) fn find(&self, name: &[u8], names: Names) -> Option<&DirEntry> {
        self.entries.get(*self.places.get(&key(name, names))?)
    }

    /// Adds an entry. Of several files of one name (versions of it) the first, the newest, counts.
    fn push(&mut self, entry: DirEntry, names: Names) {
        let key = key(&entry.name, names);
        if let std::collections::hash_map::Entry::Vacant(place) = self.places.entry(key) {
            place.insert(self.entries.len());
            self.entries.push(entry);
        }
    }
}

impl Iso9660 {
    /// The names in the directory `dir`.
    pub(super) fn listing(&self, dir: Inode) -> Result<Arc<Listing>> {
        let kept = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, listing)) = &*kept
            && *known == dir.0
        {
            return Ok(Arc::clone(listing));
        }
        drop(kept);
        let node = self.node(dir)?;
        if node.kind() != FileKind::Directory {
            return Err(Error::usage("it is not a directory"));
        }
        let listing = Arc::new(self.list(&node)?);
        *self.listing.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((dir.0, Arc::clone(&listing)));
        Ok(listing)
    }

    fn list(&self, dir: &Node) -> Result<Listing> {
        let mut listing = Listing::default();
        if dir.size() > MOST {
            return Err(dir.record.unsupported("directory of more than 64 MiB"));
        }
        for extent in &dir.extents {
            let mut raw = vec![0; length(extent.len)?];
            self.disk.read_at(&mut raw, extent.disk)?;
            let mut goes_on = false;
            for start in starts(&raw, self.block) {
                let at = u64::try_from(start).unwrap_or(u64::MAX);
                let at = extent.disk.saturating_add(at);
                let record = Record::parse(raw.get(start..).unwrap_or_default(), at)?;
                // Only the first record of a file in several extents is listed.
                let first = !std::mem::replace(&mut goes_on, record.continues());
                if first && !record.is_dot() && !record.is_associated() {
                    self.enter(extent.disk, &record, &mut listing)?;
                }
            }
        }
        Ok(listing)
    }

    /// Adds the file of `record` to the listing of the directory whose content is at `parent`.
    fn enter(&self, parent: u64, record: &Record, listing: &mut Listing) -> Result<()> {
        let rock = self.rock(record)?;
        if rock.moved_here {
            return Ok(());
        }
        let own = match self.names {
            Names::Joliet => record.joliet_name(),
            Names::RockRidge { .. } | Names::Plain => record.plain_name(),
        };
        let moved = rock.child(self.block);
        let name = rock.name.unwrap_or(own);
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(record.corrupt("a name has a slash or a zero byte, or is empty"));
        }
        if name == b"." || name == b".." {
            return Err(record.corrupt("a file is called as the directory itself or its parent"));
        }
        let (inode, content) = match moved {
            Some(inode) => {
                self.own_record(inode)?;
                (inode, inode.0)
            }
            None => {
                let content = record.first.saturating_mul(u64::from(self.block));
                (Inode(record.at), content)
            }
        };
        let directory = moved.is_some() || record.is_directory();
        if directory && (moved.is_some() || record.size > 0) {
            self.places
                .claim(content, parent, record.at)
                .map_err(|error| error.in_structure(super::record::STRUCTURE).at(record.at))?;
        }
        let kind = if directory {
            FileKind::Directory
        } else {
            rock.kind.unwrap_or(FileKind::Regular)
        };
        let kind = Some(kind);
        listing.push(DirEntry { name, inode, kind }, self.names);
        Ok(())
    }
}
