//! The stack of volumes: from the disks of a machine to what can hold a filesystem.
//!
//! [`Stack::find`] looks into every disk for partitions, physical volumes, members of arrays and
//! encrypted volumes, puts together what belongs together, and looks into the result again. Every
//! node keeps the disk that it can be read as; what cannot be read says why.
//!
//! Left out on purpose: filesystems (the caller names what a node holds, with a crate above this
//! one), and partition tables inside partitions and logical volumes, which Linux does not look for
//! either.

mod crypt;
mod search;

use std::sync::Arc;

use rehost_block::{Disk, Result};
use rehost_luks::Secret;
use serde::Serialize;

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
        let mut search = Search::new(secrets);
        for (name, disk) in disks {
            search.disk(name, disk)?;
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
}
