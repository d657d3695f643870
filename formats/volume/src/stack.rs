//! The stack of volumes: from the disks of a machine to what can hold a filesystem.
//!
//! [`Stack::find`] looks into every disk for partitions, physical volumes, members of arrays and
//! encrypted volumes, puts together what belongs together, and looks into the result again. Every
//! node keeps the disk that it can be read as; what cannot be read says why.
//!
//! [`Stack::find_mut`] finds the same nodes, in the same order, on disks that can be written (an
//! overlay over each disk of the machine, mostly): [`Stack::writer`] is a node's way to write
//! through to them, or says what keeps it from being written.
//!
//! Left out on purpose: filesystems (the caller names what a node holds, with a crate above this
//! one), and partition tables inside partitions and logical volumes, which Linux does not look for
//! either.

mod crypt;
mod search;

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Result};
use rehost_luks::Secret;
use serde::Serialize;

use crate::Backing;
use search::Search;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A disk of the machine.
    Disk,
    /// A partition.
    Part,
    /// A Linux RAID array.
    Raid,
    /// An LVM logical volume.
    Lvm,
    /// The plain side of an encrypted volume.
    Crypt,
}

/// What a node is used for, where that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Use {
    /// Divided by a DOS partition table.
    #[serde(rename = "dos")]
    Mbr,
    /// Divided by a GPT.
    #[serde(rename = "gpt")]
    Gpt,
    /// An extended partition: holds logical ones.
    #[serde(rename = "extended")]
    Extended,
    /// A physical volume of LVM2.
    #[serde(rename = "LVM2_member")]
    Lvm,
    /// A member of a Linux RAID array.
    #[serde(rename = "linux_raid_member")]
    Raid,
    /// An encrypted volume.
    #[serde(rename = "crypto_LUKS")]
    Luks,
    /// A thin pool of LVM: its volumes have nodes of their own.
    #[serde(rename = "thin-pool")]
    ThinPool,
}

impl Use {
    /// Its name, as blkid and lsblk have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mbr => "dos",
            Self::Gpt => "gpt",
            Self::Extended => "extended",
            Self::Lvm => "LVM2_member",
            Self::Raid => "linux_raid_member",
            Self::Luks => "crypto_LUKS",
            Self::ThinPool => "thin-pool",
        }
    }
}

/// One disk, partition or volume.
#[derive(Debug, Serialize)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its name: that of the disk as given, `2` of a partition, `vg/lv`, `luks-UUID`, `md-UUID`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Its own UUID: `PARTUUID` of a partition, that of the array, logical or encrypted volume.
    pub uuid: Option<String>,
    /// Its own label: the name of a GPT partition, an array or an encrypted volume.
    pub label: Option<String>,
    /// How it is made: a partition's type, an array's level, a logical volume's segment type.
    pub form: Option<String>,
    /// What it is used for; `None` where it may hold a filesystem, or nothing.
    pub usage: Option<Use>,
    /// UUID of what it is used for: of the partition table, the physical volume, the array that
    /// it is a member of, the encrypted volume in it.
    pub usage_uuid: Option<String>,
    /// The nodes that it lies on: none for a disk, several for an array.
    pub parents: Vec<usize>,
    /// What is wrong or missing, one sentence each; why it cannot be read among them.
    pub damage: Vec<String>,
    /// Its bytes, where they can be read.
    #[serde(skip)]
    pub disk: Option<Arc<dyn Disk>>,
    /// The same, with the way to write where there is one.
    #[serde(skip)]
    backing: Option<Backing>,
}

impl Node {
    /// The node's bytes, to be written through to the machine's disks.
    ///
    /// # Errors
    /// Usage when the node is used for something that other nodes lie on, or the disks were given
    /// for reading; Unsupported, with the reason, when it cannot be read or writing would do harm.
    pub fn writer(&self) -> Result<Arc<dyn DiskMut>> {
        if let Some(usage) = self.usage {
            return Err(Error::usage(format!(
                "{} is used as {}: what lies on it can be written",
                self.name,
                usage.as_str()
            )));
        }
        let Some(backing) = &self.backing else {
            let why = self.damage.first().map_or("", String::as_str);
            return Err(Error::unsupported(format!(
                "{} cannot be read: {why}",
                self.name
            )));
        };
        backing.writer().map_err(|error| error.in_file(&self.name))
    }
}

/// All nodes; parents come before what lies on them.
#[derive(Debug, Default, Serialize)]
pub struct Stack {
    /// The nodes. Other nodes name them by their place in this list.
    pub nodes: Vec<Node>,
    /// What is wrong with a volume group, one sentence each, with its name.
    pub damage: Vec<String>,
}

impl Stack {
    /// Finds what is on `disks`, each with a name. Encrypted volumes are opened with the first of
    /// `secrets` that fits.
    ///
    /// # Errors
    /// Only where reading a disk fails; what contradicts itself is told in the nodes.
    pub fn find(disks: &[(String, Arc<dyn Disk>)], secrets: &[Secret]) -> Result<Self> {
        let backed = disks.iter().map(|(name, disk)| (name, Backing::from(disk)));
        Self::search(backed, secrets)
    }

    /// As [`Stack::find`], on disks whose volumes are to be written: a node's place in the list is
    /// the same.
    ///
    /// # Errors
    /// As [`Stack::find`].
    pub fn find_mut(disks: &[(String, Arc<dyn DiskMut>)], secrets: &[Secret]) -> Result<Self> {
        let backed = disks.iter().map(|(name, disk)| (name, Backing::from(disk)));
        Self::search(backed, secrets)
    }

    fn search<'a>(
        disks: impl Iterator<Item = (&'a String, Backing)>,
        secrets: &[Secret],
    ) -> Result<Self> {
        let mut search = Search::new(secrets);
        for (name, disk) in disks {
            search.disk(name, &disk)?;
        }
        search.assemble()
    }

    /// The nodes that lie on node `parent`.
    pub fn children(&self, parent: usize) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .filter(move |(_, node)| node.parents.contains(&parent))
    }

    /// The nodes that may hold a filesystem: they can be read and are used for nothing else.
    pub fn open(&self) -> impl Iterator<Item = (&Node, &Arc<dyn Disk>)> {
        self.nodes
            .iter()
            .filter(|node| node.usage.is_none())
            .filter_map(|node| Some((node, node.disk.as_ref()?)))
    }

    /// The node that `name` stands for, and its place in the list: its name (`vg/lv`, `2` of the
    /// only partition 2), the same after that of the node below it and a colon (`sdb:2`), or its
    /// UUID.
    ///
    /// # Errors
    /// Usage when there is none, or several.
    pub fn named(&self, name: &str) -> Result<(usize, &Node)> {
        let ways: [&dyn Fn(&Node) -> bool; 3] = [
            &|node| node.name == name,
            &|node| self.long_names(node).any(|long| long == name),
            &|node| node.uuid.as_deref() == Some(name),
        ];
        for fits in ways {
            let mut found = self.nodes.iter().enumerate().filter(|(_, node)| fits(node));
            let Some((place, node)) = found.next() else {
                continue;
            };
            let others: Vec<&Node> = found.map(|(_, node)| node).collect();
            if others.is_empty() {
                return Ok((place, node));
            }
            let all = std::iter::once(node).chain(others);
            let known: Vec<String> = all.flat_map(|node| self.long_names(node)).collect();
            return Err(
                Error::usage(format!("{name} is the name of several volumes"))
                    .hint(format!("say which: {}", known.join(", "))),
            );
        }
        let known: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        Err(Error::usage(format!("there is no volume {name}"))
            .hint(format!("there are: {}", known.join(", "))))
    }

    /// A node's name after that of each node that it lies on.
    fn long_names<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = String> + 'a {
        let below = node.parents.iter().filter_map(|one| self.nodes.get(*one));
        below.map(|parent| format!("{}:{}", parent.name, node.name))
    }

    /// The node called `name` (as [`Stack::named`]), to be written.
    ///
    /// # Errors
    /// As [`Stack::named`] and [`Node::writer`].
    pub fn writer(&self, name: &str) -> Result<Arc<dyn DiskMut>> {
        self.named(name)?.1.writer()
    }
}
