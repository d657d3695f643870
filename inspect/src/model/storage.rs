//! What lies between disks and filesystems, as configured.

use schemars::JsonSchema;
use serde::Serialize;

use super::{FilesystemRef, Place};

/// One line of `/etc/crypttab`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CryptMapping {
    /// Name of the plain side, below `/dev/mapper`.
    pub name: String,
    /// The encrypted volume, as written: `UUID=…`.
    pub spec: String,
    /// The file with its key; `None` when a passphrase is asked for.
    pub key: Option<String>,
    /// Fourth field, split at commas.
    pub options: Vec<String>,
    /// The volume that `spec` names, when it is on these disks.
    pub resolved: Option<FilesystemRef>,
    /// Where it stands.
    pub place: Place,
}

/// One `ARRAY` of `mdadm.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ArrayConfigured {
    /// As written: `/dev/md/0`.
    pub device: String,
    /// Its UUID, as blkid writes it.
    pub uuid: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The array, or the first of its members, when one is on these disks.
    pub resolved: Option<FilesystemRef>,
    /// Where it stands.
    pub place: Place,
}

/// device-mapper multipath.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Multipath {
    /// Whether its daemon is started.
    pub enabled: bool,
    /// The identities of the disks that it combined.
    pub wwids: Vec<String>,
    /// Where it is configured.
    pub place: Place,
}

/// A filesystem that dm-verity checks: a changed block of it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verified {
    /// Where it is mounted: `/`, `/usr`.
    pub point: String,
    /// What says so: `roothash`, `usrhash`, `veritytab`.
    pub by: String,
    /// Where that stands.
    pub place: Place,
}

/// What keeps LVM from looking at disks that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LvmScope {
    /// Entries of `system.devices`, kind and name: `sys_wwid naa.6000c29…`.
    pub devices: Vec<(String, Place)>,
    /// `filter` and `global_filter` of `lvm.conf`, as written.
    pub filters: Vec<(String, Place)>,
}
