//! One change: planned without writing, then written in the order that the module above promises.

use std::time::{SystemTime, UNIX_EPOCH};

use rehost_block::{DiskMut, Error, Result};

use super::super::boot::Root;
use super::super::dir::{Listing, Place};
use super::super::entry::{ARCHIVE, DELETED, DIRECTORY, LEN, Short, fresh};
use super::super::name::made;
use super::super::number::put;
use super::super::table::Row;
use super::super::{Node, ROOT};
use super::State;
use super::alloc::{clusters, count, first_of, last_of, split};
use super::marks::Mark;
use super::slots::{Order, room, short_names, write};
use crate::Inode;
use crate::content::{Content, NOTHING};

/// A change in progress.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) state: &'a mut State,
    pub(super) disk: &'a dyn DiskMut,
    now: i64,
    /// Whether something may have been written.
    pub(super) begun: bool,
}

impl State {
    /// The entry of an inode, in a directory that the survey knows.
    fn entry_known(&self, inode: Inode) -> Result<(Short, u64)> {
        let Node::Entry { short, at } = self.fs.node(inode)? else {
            return Err(Error::usage("it is the top directory"));
        };
        let known = match self.fs.boot.cluster_of(at) {
            Some(cluster) => self.survey.dirs.get(cluster),
            None => matches!(self.fs.boot.root, Root::Fixed { .. }),
        };
        if known {
            Ok((short, at))
        } else {
            Err(Error::usage(format!(
                "{} is not an inode number of this filesystem",
                inode.0
            )))
        }
    }

    pub(super) fn regular_known(&self, inode: Inode) -> Result<(Short, u64)> {
        let (short, at) = self.entry_known(inode)?;
        if short.is_directory() {
            return Err(Error::usage("it is not a regular file"));
        }
        Ok((short, at))
    }

    fn place_known(&self, dir: Inode) -> Result<Place> {
        if dir.0 == ROOT {
            return Ok(self.fs.root_place());
        }
        let (short, at) = self.entry_known(dir)?;
        self.fs.place_of(&short, at)
    }
}

/// A file's length, as FAT stores it.
fn size_of(content: &dyn Content) -> Result<u32> {
    u32::try_from(content.size()).map_err(|_| {
        Error::unsupported("files on FAT are at most 4 GiB less one byte")
            .mismatch(u32::MAX, content.size())
    })
}

impl<'a> Change<'a> {
    pub(super) fn new(state: &'a mut State, disk: &'a dyn DiskMut) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            state,
            disk,
            now: i64::try_from(now).unwrap_or(i64::MAX),
            begun: false,
        }
    }

    /// From here on the disk is written.
    fn begin(&mut self) -> Result<()> {
        self.begun = true;
        self.state.mark(self.disk, Mark::Dirty)
    }

    fn finish(&mut self) -> Result<()> {
        self.state.summarise(self.disk)?;
        self.disk.sync()?;
        self.state.mark(self.disk, Mark::Clean)
    }

    /// Creates a file; gives the place of its entry.
    pub(super) fn create(
        &mut self,
        dir: Inode,
        name: &[u8],
        attributes: u8,
        content: &dyn Content,
    ) -> Result<u64> {
        let size = size_of(content)?;
        let need = self.state.fs.boot.clusters_for(u64::from(size));
        self.add(dir, name, need, |_, first, now, short| {
            Ok((fresh(short, attributes, first, size, now)?, content))
        })
        .map(|(at, _)| at)
    }

    pub(super) fn create_directory(&mut self, dir: Inode, name: &[u8]) -> Result<u64> {
        let (at, rows) = self.add(dir, name, 1, |parent, first, now, short| {
            let mut content = Vec::new();
            for (dots, first) in [(b".          ", first), (b"..         ", parent)] {
                content.extend(fresh(dots, DIRECTORY, first, 0, now)?);
            }
            Ok((fresh(short, DIRECTORY, first, 0, now)?, content))
        })?;
        for cluster in clusters(&rows) {
            self.state.survey.dirs.set(cluster);
        }
        Ok(at)
    }

    /// Adds a name with a content of `need` clusters. `make` gives the short entry and the content,
    /// from what a directory calls its parent, the first cluster, the time and the short name.
    fn add<C: Content>(
        &mut self,
        dir: Inode,
        name: &[u8],
        need: u64,
        make: impl FnOnce(u32, u32, i64, &[u8; 11]) -> Result<([u8; LEN], C)>,
    ) -> Result<(u64, Vec<Row>)> {
        let place = self.state.place_known(dir)?;
        let mut listing = self.state.fs.list(place)?;
        if listing.find(name).is_some() {
            let shown = String::from_utf8_lossy(name);
            return Err(Error::usage(format!("'{shown}' exists already")));
        }
        let (mut slots, short) = made(name, &short_names(&listing))?;
        let cluster = self.state.fs.boot.cluster;
        let room = room(&listing, place, slots.len().saturating_add(1), cluster)?;
        let (rows, more) = split(&self.pick(need.saturating_add(room.more))?, need);
        let parent = match place {
            Place::Chain(first) if place != self.state.fs.root_place() => first,
            _ => 0,
        };
        let (entry, content) = make(parent, first_of(&rows), self.now, &short)?;
        slots.push(entry);

        self.begin()?;
        self.fill(&rows, &content)?;
        self.fill(&more, NOTHING)?;
        self.chain(&rows)?;
        self.chain(&more)?;
        self.disk.sync()?;
        self.lengthen(&mut listing, &more)?;
        if let Some(end) = room.end {
            write(self.disk, &listing, end, &[[0; LEN]], Order::Forward)?;
        }
        write(self.disk, &listing, room.start, &slots, Order::Forward)?;
        self.disk.sync()?;
        self.finish()?;
        let last = room.start.saturating_add(slots.len()).saturating_sub(1);
        let at = listing.place(last).unwrap_or(0);
        Ok((at, rows))
    }

    /// Appends zeroed clusters to a directory.
    fn lengthen(&mut self, listing: &mut Listing, more: &[Row]) -> Result<()> {
        let (Some(last), false) = (last_of(&listing.rows), more.is_empty()) else {
            return Ok(());
        };
        self.link(last, more)?;
        for row in more {
            let len = u64::from(row.count).saturating_mul(self.state.fs.boot.cluster);
            listing
                .parts
                .push((self.state.fs.boot.offset(row.first), len));
            for cluster in row.clusters() {
                self.state.survey.dirs.set(cluster);
            }
        }
        self.disk.sync()
    }

    pub(super) fn replace(&mut self, inode: Inode, content: &dyn Content) -> Result<()> {
        let (mut short, at) = self.state.regular_known(inode)?;
        let size = size_of(content)?;
        let need = self.state.fs.boot.clusters_for(u64::from(size));
        let old = self.content_of(&short, at)?;
        let free = u64::from(self.state.survey.free);
        // Where both fit, the old content stays until the new one is valid.
        let (keep, gone) = split(&old, if need <= free { 0 } else { need });
        let more = self.pick(need.saturating_sub(count(&keep)))?;
        let first = first_of(if keep.is_empty() { &more } else { &keep });
        short.point(first, size, self.now)?;
        put(&mut short.raw, 11, &[short.attributes | ARCHIVE])?;

        self.begin()?;
        let all: Vec<Row> = keep.iter().chain(&more).copied().collect();
        self.fill(&all, content)?;
        self.chain(&more)?;
        self.disk.sync()?;
        let last = last_of(&keep);
        if let (Some(last), false) = (last, more.is_empty()) {
            self.link(last, &more)?;
        }
        self.disk.write_at(&short.raw, at)?;
        self.disk.sync()?;
        if !gone.is_empty() {
            self.free(&gone, last)?;
        }
        self.finish()
    }

    /// All clusters of a file's content.
    fn content_of(&self, short: &Short, at: u64) -> Result<Vec<Row>> {
        if short.first == 0 {
            return Ok(Vec::new());
        }
        self.state.fs.check_first(short, at)?;
        self.state.fs.whole_chain(short.first)
    }

    pub(super) fn remove(&mut self, dir: Inode, name: &[u8]) -> Result<()> {
        let place = self.state.place_known(dir)?;
        let listing = self.state.fs.list(place)?;
        let shown = String::from_utf8_lossy(name);
        let Some(entry) = listing.find(name) else {
            return Err(Error::usage(format!("there is no '{shown}'")));
        };
        if entry.short.is_directory() {
            let inside = self.state.fs.place_of(&entry.short, entry.at)?;
            if !self.state.fs.list(inside)?.entries.is_empty() {
                return Err(Error::usage(format!("directory '{shown}' is not empty")));
            }
        }
        let old = self.content_of(&entry.short, entry.at)?;
        let mut slots = listing
            .slots
            .get(entry.slots.clone())
            .unwrap_or_default()
            .to_vec();
        for raw in &mut slots {
            put(raw, 0, &[DELETED])?;
        }
        self.begin()?;
        write(
            self.disk,
            &listing,
            entry.slots.start,
            &slots,
            Order::Backward,
        )?;
        self.disk.sync()?;
        self.free(&old, None)?;
        self.finish()
    }
}
