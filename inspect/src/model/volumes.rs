//! Disks and volumes as values: what each is, what it holds, and how it is named.

use std::fmt;

use rehost_fs::Identity;
use rehost_volume::Layout;
use rehost_volume::stack::{Kind, Use};
use schemars::JsonSchema;
use serde::Serialize;

use super::shape;

/// One disk.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DiskFound {
    /// Size in bytes.
    pub size: u64,
    /// How it is divided.
    #[schemars(with = "shape::Layout")]
    pub layout: Layout,
    /// Whose boot code is in sector 0: `GRUB`, `SYSLINUX`, `LILO`, `Windows`.
    pub boot_code: Option<&'static str>,
    /// What each partition holds, in the order of `layout.volumes`.
    pub filesystems: Vec<FilesystemFound>,
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FilesystemFound {
    /// Number of the partition on its disk; 0 for a disk without a table.
    pub volume: u32,
    /// The content.
    pub content: Content,
}

/// One disk, partition or volume of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct VolumeFound {
    /// What it is.
    #[schemars(with = "shape::Kind")]
    pub kind: Kind,
    /// What it is called on the command line: `2` of the first disk, `1:2` of the second, `vg/lv`,
    /// `md0`, `luks-UUID`.
    pub name: String,
    /// Its place.
    pub at: FilesystemRef,
    /// Size in bytes.
    pub size: u64,
    /// Its own UUID: `PARTUUID` of a partition, that of the array, logical or encrypted volume.
    pub uuid: Option<String>,
    /// Its own label: the name of a GPT partition, an array or an encrypted volume.
    pub label: Option<String>,
    /// How it is made: a partition's type, an array's level, a logical volume's segment type.
    pub form: Option<String>,
    /// What other volumes use it for.
    #[schemars(with = "Option<String>")]
    pub usage: Option<Use>,
    /// UUID of what it is used for: of the partition table, the physical volume, the array that
    /// it is a member of, the encrypted volume in it.
    pub usage_uuid: Option<String>,
    /// The volumes that it lies on, by their place in the list: none for a disk, several for an
    /// array.
    pub parents: Vec<usize>,
    /// What it holds.
    pub content: Content,
    /// Where the systems found here mount it: `/`, `/home`, `[SWAP]`.
    pub mounted: Vec<String>,
    /// What is wrong or missing, one sentence each; why it cannot be read among them.
    pub damage: Vec<String>,
}

/// What the first blocks of a volume say it is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Content {
    /// A filesystem that was opened.
    Filesystem(#[schemars(with = "shape::Identity")] Identity),
    /// A swap area, or a container of other volumes.
    Recognised {
        /// `swap`, `LVM2_member`, `crypto_LUKS`, …, as `blkid` prints it.
        kind: String,
        /// Its UUID, where the signature carries one.
        uuid: Option<String>,
        /// Its label, where the signature carries one.
        label: Option<String>,
    },
    /// A filesystem that could not be opened: damaged, or of a kind that is only named.
    Broken {
        /// As `blkid` prints it.
        kind: String,
        /// Its UUID, where the signature carries one.
        uuid: Option<String>,
        /// Its label, where the signature carries one.
        label: Option<String>,
        /// The error, with its place.
        error: String,
    },
    /// Nothing that is known.
    Unknown,
}

impl Content {
    /// `ext4`, `swap`, `LVM2_member`, …
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Filesystem(identity) => Some(identity.kind),
            Self::Recognised { kind, .. } | Self::Broken { kind, .. } => Some(kind),
            Self::Unknown => None,
        }
    }

    /// The UUID, as `blkid` prints it.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        match self {
            Self::Filesystem(identity) => identity.uuid.as_deref(),
            Self::Recognised { uuid, .. } | Self::Broken { uuid, .. } => uuid.as_deref(),
            Self::Unknown => None,
        }
    }

    /// The label.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Filesystem(identity) => identity.label.as_deref(),
            Self::Recognised { label, .. } | Self::Broken { label, .. } => label.as_deref(),
            Self::Unknown => None,
        }
    }
}

/// Names one volume of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct FilesystemRef {
    /// Index of the disk, in the order they were given; for a volume with a `name`, of the first
    /// disk that it lies on.
    pub disk: usize,
    /// Number of the partition on it; 0 for a disk without a table, and beside a `name`.
    pub volume: u32,
    /// What a volume that lies on others is called: `vg/lv`, `md0`, `luks-UUID`; `None` for disks
    /// and their partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The Btrfs subvolume that is meant, by its path or `#` and its number; `None` for the default one, and
    /// elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<String>,
    /// UUID of what the volume holds.
    pub uuid: Option<String>,
}

impl FilesystemRef {
    /// Whether both name the same volume, whatever is known of what it holds.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        (self.disk, self.volume, &self.name) == (other.disk, other.volume, &other.name)
    }

    /// Whether both name the same volume and subvolume: the same files.
    #[must_use]
    pub fn is_view(&self, other: &Self) -> bool {
        self.is(other) && self.subvolume == other.subvolume
    }
}

impl fmt::Display for FilesystemRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.volume) {
            (Some(name), _) => f.write_str(name)?,
            (None, 0) => write!(f, "disk {}", self.disk)?,
            (None, volume) => write!(f, "disk {} partition {volume}", self.disk)?,
        }
        match &self.subvolume {
            Some(subvolume) => write!(f, " subvolume {subvolume}"),
            None => Ok(()),
        }
    }
}
