//! The search through a machine's disks: what is recognised, what is put together of it.
//!
//! Arrays are put together before volume groups, and again when logical or encrypted volumes turn
//! out to hold members; what was put together once does not take in members found later. The same
//! search serves readers and writers: each node keeps the [`Backing`] that it was found on.

use std::sync::Arc;

use rehost_block::{Disk, Error, Result};
use rehost_luks::Secret;

use super::{Kind, Node, Stack, Use};
use crate::{Backing, Layout, Table, lvm, md, scan};

/// Nodes of one stack. Ours.
const MOST_NODES: usize = 16_384;

/// Volumes on one another, partitions and disks included. Ours.
const DEEPEST: u32 = 12;

/// A search in progress.
pub(super) struct Search<'a> {
    pub(super) stack: Stack,
    depths: Vec<u32>,
    /// Members of arrays that are not put together yet, and their nodes.
    members: Vec<(usize, md::Member)>,
    /// Physical volumes of groups that are not put together yet, and their nodes.
    physical: Vec<(usize, lvm::PhysicalVolume)>,
    pub(super) secrets: &'a [Secret],
}

pub(super) fn node(kind: Kind, name: String, backing: Option<Backing>) -> Node {
    Node {
        kind,
        name,
        size: backing.as_ref().map_or(0, Disk::size),
        uuid: None,
        label: None,
        form: None,
        usage: None,
        usage_uuid: None,
        parents: Vec::new(),
        damage: Vec::new(),
        disk: backing.as_ref().map(|backing| Arc::clone(backing.disk())),
        backing,
    }
}

impl<'a> Search<'a> {
    pub(super) fn new(secrets: &'a [Secret]) -> Self {
        Self {
            stack: Stack::default(),
            depths: Vec::new(),
            members: Vec::new(),
            physical: Vec::new(),
            secrets,
        }
    }

    /// Puts arrays and groups together until nothing is left that could be part of one.
    pub(super) fn assemble(mut self) -> Result<Stack> {
        // Ends because every round takes what it puts together off the lists, and only adds to
        // them for new nodes, whose number and depth are bounded.
        loop {
            if !self.members.is_empty() {
                self.arrays()?;
            } else if !self.physical.is_empty() {
                self.groups()?;
            } else {
                return Ok(self.stack);
            }
        }
    }

    fn arrays(&mut self) -> Result<()> {
        let (nodes, members): (Vec<usize>, Vec<md::Member>) =
            std::mem::take(&mut self.members).into_iter().unzip();
        for array in md::assemble(&members) {
            let found = array.disk.as_ref().ok().cloned();
            let mut own = node(Kind::Raid, format!("md-{}", array.uuid), found.clone());
            own.uuid = Some(array.uuid);
            own.label = array.name;
            own.form = Some(array.level);
            own.damage = array.damage;
            own.parents = pick(&nodes, &array.members);
            let place = self.add(own)?;
            match (found, array.disk) {
                (Some(disk), _) => self.disk_or_array(place, &disk)?,
                (None, Err(error)) => self.note(place, error)?,
                (None, Ok(_)) => {}
            }
        }
        Ok(())
    }

    fn groups(&mut self) -> Result<()> {
        let (nodes, physical): (Vec<usize>, Vec<lvm::PhysicalVolume>) =
            std::mem::take(&mut self.physical).into_iter().unzip();
        for group in lvm::assemble(&physical) {
            let group = match group {
                Ok(group) => group,
                Err(error) => {
                    self.stack.damage.push(error.to_string());
                    continue;
                }
            };
            let named = |damage: &String| format!("volume group {}: {damage}", group.name);
            self.stack.damage.extend(group.damage.iter().map(named));
            let parents = pick(&nodes, &group.members);
            for volume in group.volumes {
                let found = volume.disk.as_ref().ok().cloned();
                let name = format!("{}/{}", group.name, volume.name);
                let mut own = node(Kind::Lvm, name, found.clone());
                own.size = volume.size;
                own.uuid = Some(volume.uuid);
                own.form = Some(volume.kind);
                own.parents.clone_from(&parents);
                let pool = own.form.as_deref() == Some("thin-pool");
                own.usage = pool.then_some(Use::ThinPool);
                let place = self.add(own)?;
                match (found, volume.disk) {
                    (Some(disk), _) => {
                        self.look_into(place, &disk)?;
                    }
                    (None, _) if pool => {}
                    (None, Err(error)) => self.note(place, error)?,
                    (None, Ok(_)) => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, node: Node) -> Result<usize> {
        let place = self.stack.nodes.len();
        let above = node.parents.iter().filter_map(|one| self.depths.get(*one));
        let depth = above.max().map_or(0, |depth| depth.saturating_add(1));
        if place >= MOST_NODES || depth > DEEPEST {
            return Err(Error::corrupt("volumes lie too deep in one another")
                .in_structure("volume stack")
                .mismatch(
                    format!("at most {DEEPEST} levels, {MOST_NODES} in all"),
                    depth,
                ));
        }
        self.depths.push(depth);
        self.stack.nodes.push(node);
        Ok(place)
    }

    pub(super) fn tell(&mut self, nth: usize, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.stack.nodes.get_mut(nth) {
            change(node);
        }
    }

    pub(super) fn disk(&mut self, name: &str, disk: &Backing) -> Result<()> {
        let own = node(Kind::Disk, name.to_owned(), Some(disk.clone()));
        let place = self.add(own)?;
        self.disk_or_array(place, disk)
    }

    fn disk_or_array(&mut self, place: usize, disk: &Backing) -> Result<()> {
        // A superblock 0.90 at the end of a disk may be that of its last partition.
        let layout = scan(disk.disk());
        if let Ok(layout) = &layout
            && layout.table != Table::None
            && holds_member(layout, disk.disk())
        {
            return self.partitions(place, disk, layout);
        }
        // A member's partition table belongs to the array: version 1.0 and 0.90 leave it in view.
        if self.look_into(place, disk)? {
            return Ok(());
        }
        match layout {
            Ok(layout) => self.partitions(place, disk, &layout),
            Err(error) => self.note(place, error),
        }
    }

    fn partitions(&mut self, place: usize, disk: &Backing, layout: &Layout) -> Result<()> {
        let usage = match layout.table {
            Table::None => {
                let damage = layout.damage.iter().cloned();
                self.tell(place, |node| node.damage.extend(damage));
                return Ok(());
            }
            Table::Mbr => Use::Mbr,
            Table::Gpt => Use::Gpt,
        };
        self.tell(place, |node| {
            node.usage = Some(usage);
            node.usage_uuid.clone_from(&layout.id);
            node.damage.extend(layout.damage.iter().cloned());
        });
        for volume in &layout.volumes {
            let extended =
                usage == Use::Mbr && matches!(volume.kind.as_str(), "0x5" | "0xf" | "0x85");
            let found = layout.part(disk, volume.number);
            let mut part = node(Kind::Part, volume.number.to_string(), None);
            part.size = volume.range.end.saturating_sub(volume.range.start);
            part.uuid.clone_from(&volume.partuuid);
            part.label.clone_from(&volume.name);
            part.form = Some(volume.kind.clone());
            part.parents.push(place);
            part.usage = extended.then_some(Use::Extended);
            let at = self.add(part)?;
            match found {
                Ok(part) => {
                    self.tell(at, |node| {
                        node.disk = Some(Arc::clone(part.disk()));
                        node.backing = Some(part.clone());
                    });
                    if !extended {
                        self.look_into(at, &part)?;
                    }
                }
                Err(error) => self.note(at, error)?,
            }
        }
        Ok(())
    }

    /// Keeps `error` as damage of a node, unless reading failed altogether.
    pub(super) fn note(&mut self, place: usize, error: Error) -> Result<()> {
        if error.kind() == rehost_block::Kind::Io {
            return Err(error);
        }
        self.tell(place, |node| node.damage.push(error.to_string()));
        Ok(())
    }

    /// Whether the node is a member, physical or encrypted volume; it is remembered as such.
    pub(super) fn look_into(&mut self, place: usize, disk: &Backing) -> Result<bool> {
        match md::Member::read(disk.clone()) {
            Ok(Some(member)) => {
                self.tell(place, |node| {
                    node.usage = Some(Use::Raid);
                    node.usage_uuid = Some(member.uuid());
                });
                self.members.push((place, member));
                return Ok(true);
            }
            Ok(None) => {}
            Err(error) => {
                self.tell(place, |node| node.usage = Some(Use::Raid));
                self.note(place, error)?;
                return Ok(true);
            }
        }
        match lvm::PhysicalVolume::read(disk.clone()) {
            Ok(Some(volume)) => {
                self.tell(place, |node| {
                    node.usage = Some(Use::Lvm);
                    node.usage_uuid = Some(volume.uuid());
                    node.damage.extend(volume.damage().iter().cloned());
                });
                self.physical.push((place, volume));
                return Ok(true);
            }
            Ok(None) => {}
            Err(error) => {
                self.tell(place, |node| node.usage = Some(Use::Lvm));
                self.note(place, error)?;
                return Ok(true);
            }
        }
        self.encrypted(place, disk)
    }
}

/// Whether a partition is a member of an array by itself.
fn holds_member(layout: &Layout, disk: &Arc<dyn Disk>) -> bool {
    layout.volumes.iter().any(|volume| {
        layout
            .open(disk, volume.number)
            .is_ok_and(|part| matches!(md::Member::read(&part), Ok(Some(_))))
    })
}

fn pick(nodes: &[usize], chosen: &[usize]) -> Vec<usize> {
    chosen
        .iter()
        .filter_map(|nth| nodes.get(*nth).copied())
        .collect()
}
