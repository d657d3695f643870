//! `DiskStorage`: a disk as a storage, for a format that is stored inside another one (an encrypted
//! volume on a partition).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::amount;
use crate::{Disk, Error, Presence, Result, Run, Storage};

/// A disk's bytes as a container of another format. The other direction is
/// [`StorageDisk`](crate::StorageDisk).
#[derive(Debug, Clone)]
pub struct DiskStorage<D: ?Sized = dyn Disk> {
    name: PathBuf,
    disk: Arc<D>,
}

impl<D: Disk + ?Sized> DiskStorage<D> {
    /// All of `disk`, called `name` in messages.
    #[must_use]
    pub fn new(name: impl Into<PathBuf>, disk: Arc<D>) -> Self {
        Self {
            name: name.into(),
            disk,
        }
    }
}

impl<D: Disk + ?Sized> Storage for DiskStorage<D> {
    fn name(&self) -> &Path {
        &self.name
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let size = self.disk.size();
        // To a disk's reader a range past its end is the caller's mistake; to a format it means
        // that its container was cut.
        if offset
            .checked_add(amount(buf.len()))
            .is_none_or(|end| end > size)
        {
            return Err(Error::corrupt("container is truncated")
                .in_file(&self.name)
                .at(offset)
                .mismatch(
                    format!("{} more bytes", buf.len()),
                    size.saturating_sub(offset),
                ));
        }
        self.disk
            .read_at(buf, offset)
            .map_err(|error| error.in_file(&self.name))
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        let located = self.disk.locate(offset, want)?;
        let presence = match located.run {
            Run::Zero => Presence::Hole,
            Run::At { .. } | Run::Packed(_) | Run::Below | Run::End => Presence::Data,
        };
        Ok((presence, located.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Memory, Overlay, StorageDisk};

    #[test]
    fn a_container_that_ends_early_is_corrupt_and_named() {
        let disk = StorageDisk::new(Arc::new(Memory::new("inner", vec![7; 1000])));
        let storage = DiskStorage::new("part", Arc::new(disk));
        let mut buf = [0; 100];
        storage.read_at(&mut buf, 900).unwrap();
        assert_eq!(buf, [7; 100]);
        for offset in [901, 1000, u64::MAX] {
            let error = storage.read_at(&mut buf, offset).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert_eq!(error.path(), Some(Path::new("part")));
        }
    }

    #[test]
    fn zeroes_of_the_disk_are_holes_of_the_storage() {
        let base = StorageDisk::new(Arc::new(Memory::new("base", vec![7; 1 << 20])));
        let store = Arc::new(Memory::new("store", Vec::new()));
        let overlay = Overlay::new(Arc::new(base), store);
        crate::DiskMut::zero_at(&overlay, 0, 1 << 19).unwrap();
        let storage = DiskStorage::new("part", Arc::new(overlay));
        assert_eq!(storage.presence(0, 4096).unwrap(), (Presence::Hole, 4096));
        assert_eq!(
            storage.presence(1 << 19, 4096).unwrap(),
            (Presence::Data, 4096)
        );
    }
}
