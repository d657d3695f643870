//! Btrfs: filesystems on several volumes, and their subvolumes as filesystems of their own.

use std::sync::Arc;

use rehost_block::{Disk, Error, Kind, Result};
use rehost_fs::{Btrfs, FileSystem, Subvol};
use rehost_volume::stack::Node;

use super::Volumes;
use crate::model::{FilesystemRef, VolumeFound};
use crate::tree::OpenedFilesystem;

/// Which volumes belong to one filesystem.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<Pool>);

/// One such filesystem.
#[derive(Debug)]
pub(super) struct Pool {
    uuid: Option<String>,
    pub(super) members: Vec<Arc<dyn Disk>>,
    /// Their places among the nodes.
    pub(super) places: Vec<usize>,
}

/// A Btrfs filesystem, to be seen from its subvolumes.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) at: FilesystemRef,
    pub(super) fs: Btrfs,
    /// The places of its members among the volumes.
    pub(super) members: Vec<usize>,
}

/// Sorts the volumes that hold Btrfs by the filesystem that they are members of.
pub(super) fn pools(nodes: &[Node]) -> Result<Pools> {
    let mut pools = Pools::default();
    let open = (0..).zip(nodes).filter(|(_, node)| node.usage.is_none());
    for (place, disk) in open.filter_map(|(nth, node)| Some((nth, node.disk.as_ref()?))) {
        let is_btrfs = match rehost_fs::detect(disk) {
            Ok(detected) => detected.is_some_and(|detected| detected.name == "btrfs"),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(_) => false,
        };
        if !is_btrfs {
            continue;
        }
        // One without a readable superblock stands alone, and says why when it is opened.
        let uuid = match Btrfs::member(disk) {
            Ok(member) => member.uuid,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(_) => None,
        };
        let known = pools
            .0
            .iter_mut()
            .find(|pool| uuid.is_some() && pool.uuid == uuid);
        match known {
            Some(pool) => {
                pool.members.push(Arc::clone(disk));
                pool.places.push(place);
            }
            None => pools.0.push(Pool {
                uuid,
                members: vec![Arc::clone(disk)],
                places: vec![place],
            }),
        }
    }
    Ok(pools)
}

impl Pools {
    /// The filesystem that `disk` is the first member of; `None` for the others.
    pub(super) fn led_by(&self, disk: &Arc<dyn Disk>) -> Option<&Pool> {
        self.0.iter().find(|pool| {
            let first = pool.members.first();
            first.is_some_and(|first| Arc::ptr_eq(first, disk))
        })
    }
}

impl Volumes {
    /// The filesystem at `at` as it is mounted with these options.
    pub(crate) fn view(
        &self,
        at: &FilesystemRef,
        options: &[String],
    ) -> Option<Result<OpenedFilesystem>> {
        let wanted = options.iter().find_map(|option| {
            if let Some(path) = option.strip_prefix("subvol=") {
                return Some(path.to_owned());
            }
            let id: u64 = option.strip_prefix("subvolid=")?.parse().ok()?;
            Some(format!("#{id}"))
        });
        let btrfs = self.btrfs.iter().find(|shared| shared.at.is(at));
        match (btrfs, wanted) {
            (Some(shared), Some(name)) => Some(shared.view(&name)),
            _ => {
                let mut filesystems = self.filesystems.iter();
                let plain = filesystems.find(|opened| opened.at.is(at))?;
                Some(Ok(plain.clone()))
            }
        }
    }

    /// The subvolumes of the filesystem at `at` that can be changed and lie in its top, as filesystems of their own.
    pub(crate) fn subvolumes(&self, at: &FilesystemRef) -> Vec<OpenedFilesystem> {
        let Some(shared) = self.btrfs.iter().find(|shared| shared.at.is(at)) else {
            return Vec::new();
        };
        let known = shared.fs.subvolumes().unwrap_or_default();
        let names = known
            .into_iter()
            .filter(|one| !one.read_only && !one.path.is_empty() && !one.path.contains(&b'/'))
            .filter_map(|one| String::from_utf8(one.path).ok());
        names.filter_map(|name| shared.view(&name).ok()).collect()
    }

    /// The filesystem on `volume` as it shows itself from one of its Btrfs subvolumes: by its path from the
    /// top one, as `mount -o subvol=` takes it, or by `#` and its number. Without a volume, the only
    /// Btrfs that there is.
    ///
    /// # Errors
    /// Usage when there is no Btrfs, several, or no such subvolume.
    pub fn subvolume(&self, volume: Option<&VolumeFound>, name: &str) -> Result<OpenedFilesystem> {
        let Some(volume) = volume else {
            return match &self.btrfs[..] {
                [one] => one.view(name),
                [] => Err(Error::usage(
                    "there is no Btrfs filesystem that can be read",
                )),
                _ => Err(Error::usage("there are several Btrfs filesystems")
                    .hint("choose one with --volume VOLUME; `rehost lsblk` shows them")),
            };
        };
        let shared = self.btrfs.iter().find(|shared| shared.at.is(&volume.at));
        shared.map_or_else(
            || {
                let what = volume.content.kind().unwrap_or("nothing known");
                Err(Error::usage(format!(
                    "volume {} has no subvolumes: it holds {what}",
                    volume.name
                ))
                .hint("only Btrfs has subvolumes; `rehost lsblk` shows what there is"))
            },
            |shared| shared.view(name),
        )
    }

    /// The volumes that the filesystem at `at` lies on: one, or the members of a Btrfs on several.
    #[must_use]
    pub fn members(&self, at: &FilesystemRef) -> Vec<&VolumeFound> {
        match self.btrfs.iter().find(|shared| shared.at.is(at)) {
            Some(shared) => {
                let places = shared.members.iter();
                places.filter_map(|nth| self.found.get(*nth)).collect()
            }
            None => self.at(at).into_iter().collect(),
        }
    }
}

impl Shared {
    /// The filesystem seen from the subvolume called `name`: a path from the top one, or `#` and a number.
    fn view(&self, name: &str) -> Result<OpenedFilesystem> {
        let path = name.trim_matches('/');
        let number = path.strip_prefix('#').and_then(|id| id.parse().ok());
        let (name, which) = match number {
            Some(id) => (Some(path.to_owned()), Subvol::Id(id)),
            None if path.is_empty() => (self.top_name()?, Subvol::Top),
            None => (
                Some(path.to_owned()),
                Subvol::Path(path.as_bytes().to_vec()),
            ),
        };
        let fs = self.fs.subvolume(&which)?;
        Ok(OpenedFilesystem {
            at: FilesystemRef {
                subvolume: name,
                uuid: fs.identity().uuid,
                ..self.at.clone()
            },
            fs: Arc::new(fs),
        })
    }

    /// What the top subvolume is called: nothing where it is what a mount without options shows.
    fn top_name(&self) -> Result<Option<String>> {
        let known = self.fs.subvolumes()?;
        let is_default = known.iter().any(|one| one.default && one.path.is_empty());
        Ok((!is_default).then(|| "#5".to_owned()))
    }
}
