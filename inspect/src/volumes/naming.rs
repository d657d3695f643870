//! What a volume is called: here, and in a guest's files.

use rehost_volume::Table;
use rehost_volume::stack::{self, Node, Use};

use super::Volumes;
use crate::device::{Named, array_links, crypt_links, logical_links};
use crate::model::{FilesystemRef, VolumeFound};

impl Volumes {
    /// What the node is called, by a name that no other has.
    pub(super) fn name(&self, node: &Node, parent: Option<&VolumeFound>) -> String {
        let wanted = match (node.kind, parent) {
            (stack::Kind::Disk, _) => match self.disks_so_far() {
                0 => "0".to_owned(),
                disk => format!("{disk}:0"),
            },
            (stack::Kind::Part, Some(parent)) if parent.at.name.is_some() => {
                format!("{}p{}", parent.name, node.name)
            }
            (stack::Kind::Part, Some(parent)) if parent.at.disk > 0 => {
                format!("{}:{}", parent.at.disk, node.name)
            }
            (stack::Kind::Raid, _) => array_name(node),
            _ => node.name.clone(),
        };
        let taken = |name: &str| self.found.iter().any(|volume| volume.name == name);
        let mut name = wanted.clone();
        let mut count = 1u32;
        // Ends because there are fewer volumes than numbers.
        while taken(&name) {
            count = count.saturating_add(1);
            name = format!("{wanted}#{count}");
        }
        name
    }

    fn disks_so_far(&self) -> usize {
        let disks = self.found.iter();
        disks
            .filter(|volume| volume.kind == stack::Kind::Disk)
            .count()
    }
}

/// `md0`, `md/data`: after the name in the superblock, without its host; else after the UUID.
fn array_name(node: &Node) -> String {
    let short = node
        .label
        .as_deref()
        .map(|label| label.rsplit(':').next().unwrap_or(label));
    match short.filter(|short| !short.is_empty()) {
        Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("md{number}"),
        Some(name) => format!("md/{name}"),
        None => node.name.clone(),
    }
}

/// Where a node is, without what it holds.
pub(super) fn place(
    node: &Node,
    name: &str,
    parent: Option<&VolumeFound>,
    before: usize,
) -> FilesystemRef {
    let (disk, volume, name) = match (node.kind, parent) {
        (stack::Kind::Part, Some(parent)) if parent.at.name.is_none() => {
            (parent.at.disk, node.name.parse().unwrap_or_default(), None)
        }
        (_, Some(parent)) => (parent.at.disk, 0, Some(name.to_owned())),
        (_, None) => {
            let number = name
                .split(':')
                .next()
                .and_then(|number| number.parse().ok());
            (number.unwrap_or(before), 0, None)
        }
    };
    FilesystemRef {
        disk,
        volume,
        name,
        subvolume: None,
        uuid: None,
    }
}

/// How the disk is divided that the node is a partition of.
pub(super) fn parent_table(found: &[VolumeFound], node: &Node) -> Table {
    let parent = node.parents.first().and_then(|nth| found.get(*nth));
    match parent.and_then(|parent| parent.usage) {
        Some(Use::Mbr) => Table::Mbr,
        Some(Use::Gpt) => Table::Gpt,
        _ => Table::None,
    }
}

/// Every name that a volume answers to in a guest's files.
pub(super) fn known(
    node: &Node,
    found: &VolumeFound,
    table: Table,
    within: Option<FilesystemRef>,
) -> Named {
    let uuid = node.uuid.as_deref();
    let (links, grub) = match (node.kind, uuid) {
        (stack::Kind::Lvm, uuid) => logical_links(&node.name, uuid),
        (stack::Kind::Raid, Some(uuid)) => array_links(uuid, node.label.as_deref()),
        (stack::Kind::Crypt, Some(uuid)) => crypt_links(uuid),
        // Of an array.
        (stack::Kind::Part, _) if found.at.name.is_some() => (vec![found.name.clone()], Vec::new()),
        _ => (Vec::new(), Vec::new()),
    };
    let part = node.kind == stack::Kind::Part;
    Named {
        at: found.at.clone(),
        label: found.content.label().map(str::to_owned),
        partuuid: node.uuid.clone().filter(|_| part),
        partlabel: node.label.clone().filter(|_| part),
        table,
        links,
        grub,
        within: within.filter(|_| node.kind == stack::Kind::Crypt),
    }
}
