//! A transaction: items to change, turned into blocks to write and the superblock that makes them count.
//!
//! Everything is planned before the first write. New blocks and new data go to free room; then the devices are flushed; then the
//! superblocks name the new tree of roots. A crash before that leaves the old state, one after it the new
//! one; a superblock torn in half has a wrong checksum, and the next copy of it is the old state.
//!
//! New blocks need accounts, which change trees, which need new blocks: [`Transaction::settle`] goes round until
//! nothing changes any more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rehost_block::{DiskMut, Error, Fields, Result};

use super::super::Volume;
use super::super::bytes::{put, put64};
use super::super::checksum::FIELD;
use super::super::key::{Key, kind, tree};
use super::super::names::Edited;
use super::super::superblock::{COPIES, SIZE, TreeRoot};
use super::rebuild::{Built, rebuild};
use super::space::{self, Delta, Space};
use super::{Accounts, items};
use crate::content::{self, Content, PIECE};
use crate::number::{div, length, rem, wide};

/// Rounds until the accounts agree with the blocks, at most. Ours: two or three are usual.
const MOST_ROUNDS: usize = 24;

/// Tree of roots, as an owner of blocks.
const ROOT_TREE: u64 = 1;

/// Data to be written: where it goes, and which part of the content.
pub(super) type Writes = Vec<(u64, Range<u64>)>;

/// A change in the making.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    pub(super) volume: &'a Volume,
    pub(super) accounts: Accounts,
    pub(super) generation: u64,
    /// The subvolume that changes, and its number.
    pub(super) files: Edited<'a>,
    pub(super) subvolume: u64,
    pub(super) extents: Edited<'a>,
    pub(super) sums: Edited<'a>,
    pub(super) space: Space<'a>,
    /// Data that came and went.
    pub(super) delta: Delta,
    pub(super) writes: Writes,
    /// CRC-32C of the content that was given checksums.
    pub(super) summed: Option<u32>,
}

/// What a transaction will write.
#[derive(Debug)]
pub(super) struct Plan {
    trees: BTreeMap<u64, Built>,
    writes: Writes,
    summed: Option<u32>,
    bytes_used: u64,
    generation: u64,
}

/// The trees with their changes, while the accounts settle.
struct Round<'a> {
    trees: Vec<(u64, Edited<'a>)>,
    bytes_used: u64,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        volume: &'a Volume,
        accounts: Accounts,
        subvolume: u64,
        root: TreeRoot,
    ) -> Self {
        let generation = volume.nodes.sb.generation.saturating_add(1);
        let edited = |root| Edited::new(&volume.nodes, root, generation);
        Self {
            volume,
            accounts,
            generation,
            files: edited(root),
            subvolume,
            extents: edited(accounts.extents),
            sums: edited(accounts.sums),
            space: Space::new(volume, accounts.extents),
            delta: Delta {
                taken: Vec::new(),
                freed: Vec::new(),
            },
            writes: Writes::new(),
            summed: None,
        }
    }

    /// Works out all that has to be written.
    pub(super) fn settle(mut self) -> Result<Plan> {
        let mut addresses: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut trees: BTreeMap<u64, Built> = BTreeMap::new();
        for _ in 0..MOST_ROUNDS {
            let round = self.account(&trees)?;
            let mut built = BTreeMap::new();
            let mut enough = true;
            for (id, edited) in &round.trees {
                if edited.changes.is_empty() {
                    continue;
                }
                let room = addresses.entry(*id).or_default();
                let (nodes, root) = (&self.volume.nodes, edited.root);
                let made = rebuild(nodes, *id, root, &edited.changes, self.generation, room)?;
                // Ends because a tree has a number of blocks.
                while room.len() < made.nodes.len() {
                    enough = false;
                    room.push(self.space.block()?);
                }
                built.insert(*id, made);
            }
            if enough && same(&trees, &built) {
                self.check_shared(&built)?;
                return Ok(Plan {
                    trees: built,
                    writes: self.writes,
                    summed: self.summed,
                    bytes_used: round.bytes_used,
                    generation: self.generation,
                });
            }
            trees = built;
        }
        Err(Error::unsupported(
            "the accounts of free space do not settle",
        ))
    }

    /// All changes, with the accounts of the blocks in `trees` as they are known so far.
    fn account(&self, trees: &BTreeMap<u64, Built>) -> Result<Round<'a>> {
        let volume = self.volume;
        let node = u64::from(volume.nodes.sb.node);
        let mut extents = self.extents.clone();
        let mut delta = self.delta.clone();
        for (id, built) in trees {
            for (logical, level) in &built.freed {
                extents.delete(Key::new(*logical, items::METADATA_ITEM, (*level).into()))?;
                delta.freed.push(*logical..logical.saturating_add(node));
            }
            for new in built.nodes.iter().filter(|new| new.logical != 0) {
                let key = Key::new(new.logical, items::METADATA_ITEM, new.level.into());
                extents.set(key, items::tree_block(*id, self.generation)?)?;
                delta
                    .taken
                    .push(new.logical..new.logical.saturating_add(node));
            }
        }
        let edited = |root| Edited::new(&volume.nodes, root, self.generation);
        let mut others = Vec::new();
        let (taken, freed) = match self.accounts.groups {
            Some(root) => {
                let mut groups = edited(root);
                let moved = space::account(volume, &mut groups, &delta)?;
                others.push((super::BLOCK_GROUP_TREE, groups));
                moved
            }
            None => space::account(volume, &mut extents, &delta)?,
        };
        if let Some(root) = self.accounts.free_space {
            let mut free = edited(root);
            space::free_space(volume, &mut free, &delta)?;
            others.push((super::FREE_SPACE_TREE, free));
        }
        let mut roots = edited(volume.nodes.sb.root);
        others.push((super::EXTENT_TREE, extents));
        others.push((tree::CSUM, self.sums.clone()));
        others.push((self.subvolume, self.files.clone()));
        for (id, edited) in &others {
            if !edited.changes.is_empty() {
                self.root_item(&mut roots, *id, trees.get(id))?;
            }
        }
        others.push((ROOT_TREE, roots));
        let used = volume.nodes.sb.bytes_used.checked_add(taken);
        let bytes_used = used
            .and_then(|used| used.checked_sub(freed))
            .ok_or_else(|| items::corrupt("the superblock's account of used bytes is wrong"))?;
        Ok(Round {
            trees: others,
            bytes_used,
        })
    }

    /// Makes the item of tree `id` point to its new top, as far as that is known.
    fn root_item(&self, roots: &mut Edited<'_>, id: u64, built: Option<&Built>) -> Result<()> {
        let item = roots.tree().before(Key::last_of(id, kind::ROOT_ITEM))?;
        let item = item
            .filter(|item| item.key.is(id, kind::ROOT_ITEM))
            .ok_or_else(|| items::corrupt("a tree has no root item"))?;
        let mut raw = item.bytes().to_vec();
        let f = Fields::new(&raw, "root item", 0);
        let newer = f.len() >= 439 && f.u64_le(239)? == f.u64_le(160)?;
        let mut used = f.u64_le(192)?;
        put64(&mut raw, 160, self.generation)?;
        if newer {
            put64(&mut raw, 239, self.generation)?;
            if id == self.subvolume {
                put64(&mut raw, 295, self.generation)?;
            }
        }
        if let Some(built) = built {
            let node = u64::from(self.volume.nodes.sb.node);
            used = used
                .saturating_add(wide(built.nodes.len()).saturating_mul(node))
                .saturating_sub(wide(built.freed.len()).saturating_mul(node));
            put64(&mut raw, 176, built.root.logical)?;
            put(&mut raw, 238, &[built.root.level])?;
        }
        put64(&mut raw, 192, used)?;
        roots.set(item.key, raw)
    }

    /// Refuses to take away blocks that a snapshot has too.
    fn check_shared(&self, trees: &BTreeMap<u64, Built>) -> Result<()> {
        let extents = self.volume.tree(self.accounts.extents);
        for (id, built) in trees {
            for block in &built.freed {
                items::check_own_block(&extents, *block, *id)?;
            }
        }
        Ok(())
    }
}

/// Whether two rounds came to the same blocks.
fn same(a: &BTreeMap<u64, Built>, b: &BTreeMap<u64, Built>) -> bool {
    let alike = |one: &Built, other: &Built| {
        let shape = |built: &Built| -> Vec<(u64, u8)> {
            let nodes = built.nodes.iter();
            nodes.map(|node| (node.logical, node.level)).collect()
        };
        shape(one) == shape(other) && one.freed == other.freed
    };
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((id, one), (other_id, other))| id == other_id && alike(one, other))
}

/// The devices of a filesystem, to be written.
pub(super) type Devices = BTreeMap<u64, Arc<dyn DiskMut>>;

impl Plan {
    /// Writes the new blocks and `content`, then the superblocks.
    pub(super) fn commit(
        &self,
        volume: &Volume,
        devices: &Devices,
        content: &dyn Content,
    ) -> Result<()> {
        let mut written = 0;
        for (logical, part) in &self.writes {
            // Pieces are whole sectors, so that only the last one is filled up.
            content::in_pieces(content, part, PIECE, |at, bytes| {
                written = crc32c::crc32c_append(written, bytes);
                write_data(volume, devices, logical.saturating_add(at), bytes)
            })?;
        }
        // A file of the host is read twice, and may be written to meanwhile.
        if self.summed.is_some_and(|summed| summed != written) {
            return Err(content::changed());
        }
        for node in self.trees.values().flat_map(|built| &built.nodes) {
            write(volume, devices, node.logical, &node.raw)?;
        }
        for disk in devices.values() {
            disk.sync()?;
        }
        let mut made = Vec::new();
        for disk in devices.values() {
            made.push((disk, self.superblock(volume, &**disk)?));
        }
        for copy in COPIES {
            for (disk, raw) in &mut made {
                put_superblock(volume, &***disk, raw, copy)?;
            }
            for disk in devices.values() {
                disk.sync()?;
            }
        }
        Ok(())
    }

    /// The new superblock of a device.
    fn superblock(&self, volume: &Volume, disk: &dyn DiskMut) -> Result<Vec<u8>> {
        let old = &volume.nodes.sb;
        let mut raw = vec![0; SIZE];
        disk.read_at(&mut raw, COPIES[0])?;
        let f = Fields::new(&raw, "superblock", COPIES[0]);
        let uuid_tree = f.u64_le(0x233)? == old.generation;
        put64(&mut raw, 0x48, self.generation)?;
        if let Some(root) = self.trees.get(&ROOT_TREE).map(|built| built.root) {
            put64(&mut raw, 0x50, root.logical)?;
            put(&mut raw, 0xc6, &[root.level])?;
        }
        put64(&mut raw, 0x78, self.bytes_used)?;
        if uuid_tree {
            put64(&mut raw, 0x233, self.generation)?;
        }
        self.backup(&mut raw, old.generation)?;
        Ok(raw)
    }

    /// Notes the new tops beside those of the last three commits, as the kernel does.
    fn backup(&self, raw: &mut [u8], old: u64) -> Result<()> {
        const AT: usize = 0xb2b;
        const LEN: usize = 168;
        let at = |nth: usize| nth.saturating_mul(LEN).saturating_add(AT);
        let f = Fields::new(raw, "superblock", 0);
        let mut last = None;
        for nth in 0..4 {
            if f.u64_le(at(nth).saturating_add(8))? == old {
                last = Some(nth);
            }
        }
        let Some(last) = last else { return Ok(()) };
        let mut backup = f.bytes(at(last), LEN)?.to_vec();
        // Tree of roots, extents, files, checksums: address, generation, and the byte of the level.
        for (id, field, level) in [
            (ROOT_TREE, 0, 152),
            (super::EXTENT_TREE, 32, 154),
            (tree::FS, 48, 155),
            (tree::CSUM, 80, 157),
        ] {
            if let Some(root) = self.trees.get(&id).map(|built| built.root) {
                put64(&mut backup, field, root.logical)?;
                put64(&mut backup, field.saturating_add(8), root.generation)?;
                put(&mut backup, level, &[root.level])?;
            }
        }
        put64(&mut backup, 8, self.generation)?;
        put64(&mut backup, 104, self.bytes_used)?;
        let next = last.saturating_add(1).checked_rem(4).unwrap_or(0);
        put(raw, at(next), &backup)
    }
}

/// Writes a superblock to one of its places, where there is one already.
fn put_superblock(volume: &Volume, disk: &dyn DiskMut, raw: &mut [u8], copy: u64) -> Result<()> {
    if disk.size() < copy.saturating_add(wide(SIZE)) {
        return Ok(());
    }
    let mut there = vec![0; SIZE];
    disk.read_at(&mut there, copy)?;
    let f = Fields::new(&there, "superblock", copy);
    let is_one = f.bytes(0x40, 8)? == b"_BHRfS_M"
        && f.array::<16>(0x20)? == volume.nodes.sb.fsid
        && f.u64_le(0x30)? == copy;
    if !is_one {
        return Ok(());
    }
    put64(raw, 0x30, copy)?;
    let sum = volume
        .nodes
        .sb
        .checksum
        .of(raw.get(FIELD..).unwrap_or_default());
    put(raw, 0, &sum)?;
    disk.write_at(raw, copy)
}

/// Writes to every copy.
pub(super) fn write(volume: &Volume, devices: &Devices, logical: u64, data: &[u8]) -> Result<()> {
    let mut at = logical;
    let mut rest = data;
    // Ends because every piece has at least one byte.
    while !rest.is_empty() {
        let piece = volume.nodes.pool.chunks.piece(at, wide(rest.len()))?;
        let len = length(piece.len)?.clamp(1, rest.len());
        let (part, tail) = rest.split_at(len);
        for place in &piece.copies {
            let disk = devices
                .get(&place.device)
                .ok_or_else(|| Error::internal("a device to write is not there"))?;
            disk.write_at(part, place.offset)?;
        }
        at = at.saturating_add(wide(len));
        rest = tail;
    }
    Ok(())
}

/// Writes content, with zeroes to the end of its last sector.
fn write_data(volume: &Volume, devices: &Devices, logical: u64, bytes: &[u8]) -> Result<()> {
    let sector = u64::from(volume.nodes.sb.sector);
    let whole = div(wide(bytes.len()), sector).saturating_mul(sector);
    let (body, tail) = bytes.split_at(length(whole)?.min(bytes.len()));
    write(volume, devices, logical, body)?;
    if rem(wide(bytes.len()), sector) == 0 {
        return Ok(());
    }
    let mut last = tail.to_vec();
    last.resize(length(sector)?, 0);
    write(volume, devices, logical.saturating_add(whole), &last)
}
