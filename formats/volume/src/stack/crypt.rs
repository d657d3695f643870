//! Encrypted volumes in the search: opened with the first secret that fits, or named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Disk, DiskStorage, Error, Result};
use rehost_luks::{Limits, LuksDisk, LuksDiskMut, Secret};

use super::search::{Search, node};
use super::{Kind, Use};
use crate::Backing;

impl Search<'_> {
    /// Whether the node is a LUKS volume; what is in it is looked into.
    pub(super) fn encrypted(&mut self, place: usize, disk: &Backing) -> Result<bool> {
        let name = self.stack.nodes.get(place).map(|node| node.name.clone());
        let path = PathBuf::from(name.unwrap_or_default());
        let storage = DiskStorage::new(&path, Arc::clone(disk.disk()));
        if rehost_luks::detect(&storage)?.is_none() {
            return Ok(false);
        }
        self.tell(place, |node| node.usage = Some(Use::Luks));
        let header = match rehost_luks::parse(&storage) {
            Ok(header) => header,
            Err(error) => return self.note(place, error).map(|()| true),
        };
        self.tell(place, |node| {
            node.usage_uuid = Some(header.uuid().to_owned());
        });
        let mut refusal = Error::usage("is encrypted, and no key was given");
        for secret in self.secrets {
            match unlock(&path, disk, &storage, &header, secret) {
                Ok(plain) => {
                    let name = format!("luks-{}", header.uuid());
                    let mut opened = node(Kind::Crypt, name, Some(plain.clone()));
                    opened.uuid = Some(header.uuid().to_owned());
                    opened.label = header.label().map(str::to_owned);
                    opened.parents.push(place);
                    let at = self.add(opened)?;
                    self.look_into(at, &plain)?;
                    return Ok(true);
                }
                Err(error) => refusal = error,
            }
        }
        self.note(place, refusal)?;
        Ok(true)
    }
}

fn unlock(
    path: &Path,
    disk: &Backing,
    storage: &DiskStorage,
    header: &rehost_luks::Header,
    secret: &Secret,
) -> Result<Backing> {
    let key = header.unlock(storage, secret, &Limits::default())?;
    disk.layered(
        |disk| {
            Ok(Arc::new(LuksDisk::<dyn Disk>::new(
                path, disk, header, &key,
            )?))
        },
        |disk| Ok(Arc::new(LuksDiskMut::new(path, disk, header, &key)?)),
    )
}
