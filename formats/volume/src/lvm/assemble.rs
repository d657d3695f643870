//! Volume groups put together from the physical volumes of several disks.
//!
//! The newest metadata of a group counts (`seqno`); a physical volume whose own copy is older is
//! named. What is missing is named too, and costs only the logical volumes that need it.

use std::collections::{BTreeMap, BTreeSet};

use rehost_block::{Disk as _, Error, Result};

use super::build::Builder;
use super::group::{Group, parse_group};
use super::label::{Label, read_label};
use crate::backing::Backing;

/// A disk, partition, array or unlocked volume that has an LVM2 label.
#[derive(Debug)]
pub struct PhysicalVolume {
    pub(crate) label: Label,
    backing: Backing,
}

impl PhysicalVolume {
    /// Reads the label of `disk`, which is given for reading or for writing; `None` when it has
    /// none.
    ///
    /// # Errors
    /// Corrupt when there is a label and it contradicts itself; otherwise as reading the disk.
    pub fn read(disk: impl Into<Backing>) -> Result<Option<Self>> {
        let backing = disk.into();
        Ok(read_label(backing.disk())?.map(|label| Self { label, backing }))
    }

    /// Its UUID, as `pvs -o pv_uuid` prints it.
    #[must_use]
    pub fn uuid(&self) -> String {
        dashed(&self.label.uuid)
    }

    /// Size in bytes that it was made with.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.label.size {
            0 => self.backing.size(),
            size => size,
        }
    }

    /// What is wrong with it, one sentence each.
    #[must_use]
    pub fn damage(&self) -> &[String] {
        &self.label.damage
    }
}

/// A volume group and its logical volumes.
#[derive(Debug)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// How many times its metadata was changed.
    pub seqno: u64,
    /// Which of the physical volumes given belong to it.
    pub members: Vec<usize>,
    /// Its visible logical volumes, in the order of the metadata.
    pub volumes: Vec<LogicalVolume>,
    /// What is missing or wrong, one sentence each.
    pub damage: Vec<String>,
}

/// A logical volume.
#[derive(Debug)]
pub struct LogicalVolume {
    /// Its name within the group.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Size in bytes.
    pub size: u64,
    /// How it is made, as `lvs -o segtype` says of its first segment.
    pub kind: String,
    /// Its bytes, or why they cannot be read. They can be written where all physical volumes and
    /// legs are there, and were given for writing.
    pub disk: Result<Backing>,
}

/// Puts the groups of `physical` together, in the order in which they are met.
///
/// A group whose metadata cannot be parsed is an error in the list; the others are not hurt.
#[must_use]
pub fn assemble(physical: &[PhysicalVolume]) -> Vec<Result<VolumeGroup>> {
    let mut order: Vec<String> = Vec::new();
    let mut newest: BTreeMap<String, Group> = BTreeMap::new();
    let mut seen: BTreeMap<String, Vec<(usize, u64)>> = BTreeMap::new();
    let mut failed = Vec::new();
    for (nth, volume) in physical.iter().enumerate() {
        for text in &volume.label.texts {
            let group = match parse_group(&text.bytes, text.at) {
                Ok(group) => group,
                Err(error) => {
                    failed.push(error);
                    continue;
                }
            };
            let id = group.uuid.clone();
            seen.entry(id.clone()).or_default().push((nth, group.seqno));
            match newest.get(&id) {
                Some(known) if known.seqno >= group.seqno => {}
                Some(_) => {
                    newest.insert(id, group);
                }
                None => {
                    order.push(id.clone());
                    newest.insert(id, group);
                }
            }
        }
    }
    let mut groups = Vec::new();
    for id in order {
        if let Some(group) = newest.remove(&id) {
            let copies = seen.remove(&id).unwrap_or_default();
            groups.push(Ok(one(physical, &group, &copies)));
        }
    }
    // Another copy of the same metadata may have been whole: only what is left without is an error.
    if groups.is_empty() {
        groups.extend(failed.into_iter().map(Err));
    } else {
        for error in failed {
            if let Some(Ok(group)) = groups.first_mut() {
                let what = format!("a copy of LVM metadata cannot be used: {error}");
                group.damage.push(what);
            }
        }
    }
    groups
}

fn one(physical: &[PhysicalVolume], group: &Group, copies: &[(usize, u64)]) -> VolumeGroup {
    let mut damage = Vec::new();
    let mut behind = BTreeSet::new();
    for (nth, seqno) in copies.iter().filter(|(_, seqno)| *seqno < group.seqno) {
        if !copies.contains(&(*nth, group.seqno)) {
            behind.insert(*nth);
        }
        let uuid = physical.get(*nth).map(PhysicalVolume::uuid);
        damage.push(format!(
            "physical volume {} has metadata of version {seqno}, the group is at {}",
            uuid.unwrap_or_default(),
            group.seqno
        ));
    }
    let mut members = Vec::new();
    let mut disks: BTreeMap<&str, Backing> = BTreeMap::new();
    for (name, wanted) in &group.physical {
        let mut found = physical
            .iter()
            .enumerate()
            .filter(|(_, volume)| volume.label.uuid == wanted.uuid);
        match found.next() {
            Some((nth, volume)) => {
                members.push(nth);
                let mut doubt = behind
                    .contains(&nth)
                    .then_some("a physical volume missed changes of its group");
                if found.next().is_some() {
                    doubt = Some("a physical volume is there twice");
                    damage.push(format!(
                        "physical volume {} is there twice: the first one is read",
                        dashed(&wanted.uuid)
                    ));
                }
                if wanted.missing {
                    doubt = Some("a physical volume had been missing from its group");
                    damage.push(format!(
                        "physical volume {} had been missing when the group was last changed",
                        dashed(&wanted.uuid)
                    ));
                }
                disks.insert(name, volume.backing.clone().shut_if(doubt));
            }
            None => damage.push(format!("{} is missing", called(group, name))),
        }
    }
    members.sort_unstable();
    let mut builder = Builder::new(group, disks);
    let volumes = group
        .logical
        .iter()
        .filter(|volume| volume.visible)
        .map(|volume| {
            let extents = volume
                .segments
                .last()
                .map_or(0, |last| last.start.saturating_add(last.extents));
            LogicalVolume {
                name: volume.name.clone(),
                uuid: volume.uuid.clone(),
                size: extents.saturating_mul(group.extent),
                kind: volume
                    .segments
                    .first()
                    .map_or("empty", |first| first.kind.name())
                    .to_owned(),
                disk: builder.visible(volume),
            }
        })
        .collect();
    VolumeGroup {
        name: group.name.clone(),
        uuid: group.uuid.clone(),
        seqno: group.seqno,
        members,
        volumes,
        damage,
    }
}

/// A physical volume of `group` for people.
pub(super) fn called(group: &Group, name: &str) -> String {
    let known = group.physical.get(name);
    let uuid = known.map(|known| dashed(&known.uuid)).unwrap_or_default();
    match known.and_then(|known| known.device.as_deref()) {
        Some(device) => format!("physical volume {uuid} (last seen as {device})"),
        None => format!("physical volume {uuid}"),
    }
}

/// The error for a physical volume that is not there.
pub(super) fn absent(group: &Group, name: &str) -> Error {
    Error::usage(format!("{} is missing", called(group, name)))
        .in_structure("LVM2 volume group")
        .hint("give all disks of the machine together")
}

/// A UUID of 32 letters as LVM prints it.
fn dashed(uuid: &str) -> String {
    let mut shown = String::with_capacity(38);
    for (nth, letter) in uuid.chars().enumerate() {
        if matches!(nth, 6 | 10 | 14 | 18 | 22 | 26) {
            shown.push('-');
        }
        shown.push(letter);
    }
    shown
}
