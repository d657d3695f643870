//! Btrfs: filesystems on several volumes, and their subvolumes as filesystems of their own.

use std::sync::Arc;

use rehost_block::{Disk, Kind, Result};
use rehost_fs::{Btrfs, FileSystem, Subvol};
use rehost_volume::stack::Node;

use super::Volumes;
use crate::model::FilesystemRef;
use crate::tree::OpenedFilesystem;

/// Which volumes belong to one filesystem.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<Pool>);

#[derive(Debug)]
struct Pool {
    uuid: Option<String>,
    members: Vec<Arc<dyn Disk>>,
}

/// Sorts the volumes that hold Btrfs by the filesystem that they are members of.
pub(super) fn pools(nodes: &[Node]) -> Result<Pools> {
    let mut pools = Pools::default();
    let open = nodes.iter().filter(|node| node.usage.is_none());
    for disk in open.filter_map(|node| node.disk.as_ref()) {
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
            Some(pool) => pool.members.push(Arc::clone(disk)),
            None => pools.0.push(Pool {
                uuid,
                members: vec![Arc::clone(disk)],
            }),
        }
    }
    Ok(pools)
}

impl Pools {
    /// All members of the filesystem that `disk` is the first member of; `None` for the others.
    pub(super) fn members(&self, disk: &Arc<dyn Disk>) -> Option<Vec<Arc<dyn Disk>>> {
        let pool = self.0.iter().find(|pool| {
            let first = pool.members.first();
            first.is_some_and(|first| Arc::ptr_eq(first, disk))
        });
        pool.map(|pool| pool.members.clone())
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
                let path = path.trim_matches('/');
                return Some((path.to_owned(), Subvol::Path(path.as_bytes().to_vec())));
            }
            let id: u64 = option.strip_prefix("subvolid=")?.parse().ok()?;
            Some((format!("#{id}"), Subvol::Id(id)))
        });
        let btrfs = self.btrfs.iter().find(|(place, _)| place.is(at));
        match (btrfs, wanted) {
            (Some((_, fs)), Some((name, which))) => {
                let uuid = fs.identity().uuid;
                let view = fs.subvolume(&which).map(|fs| OpenedFilesystem {
                    at: FilesystemRef {
                        subvolume: Some(name).filter(|name| !name.is_empty()),
                        uuid,
                        ..at.clone()
                    },
                    fs: Arc::new(fs),
                });
                Some(view)
            }
            _ => {
                let mut filesystems = self.filesystems.iter();
                let plain = filesystems.find(|opened| opened.at.is(at))?;
                Some(Ok(plain.clone()))
            }
        }
    }

    /// The subvolumes of the filesystem at `at` that can be changed and lie in its top, as filesystems of their own.
    pub(crate) fn subvolumes(&self, at: &FilesystemRef) -> Vec<OpenedFilesystem> {
        let Some((_, fs)) = self.btrfs.iter().find(|(place, _)| place.is(at)) else {
            return Vec::new();
        };
        let known = fs.subvolumes().unwrap_or_default();
        let names = known
            .into_iter()
            .filter(|one| !one.read_only && !one.path.is_empty() && !one.path.contains(&b'/'))
            .filter_map(|one| String::from_utf8(one.path).ok());
        names
            .filter_map(|name| self.view(at, &[format!("subvol={name}")])?.ok())
            .collect()
    }
}
