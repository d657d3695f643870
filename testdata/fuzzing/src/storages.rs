//! Storages and gates for hostile images: nothing of them reaches a real file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Memory, Opened, Opener, Result, Storage, StorageMut};
use rehost_image::EditFiles;

/// What the hostile file is called.
pub(crate) const NAME: &str = "/hostile/input";

/// Room that a changed image may take beyond its length, in bytes.
const ROOM: u64 = 4 << 20;

/// Gives an image that names another file one that does not know it: a raw disk, or, where the input is
/// an extent, the input.
#[derive(Debug)]
pub(crate) struct Strangers(Arc<dyn Storage>);

impl Strangers {
    /// A disk of 64 KiB that is not zero.
    pub(crate) fn raw() -> Self {
        Self::with(vec![0xa5; 64 << 10])
    }

    /// A file of these bytes.
    pub(crate) fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Memory::new("/hostile/other", bytes)))
    }
}

impl Opener for Strangers {
    fn open(&self, _named: &Path, _from: &Path) -> Result<Opened> {
        Ok(Opened {
            path: PathBuf::from("/hostile/other"),
            storage: Arc::clone(&self.0),
        })
    }
}

/// An image that is changed: grows by so much and no more, as on a small disk.
#[derive(Debug)]
pub(crate) struct Bounded {
    memory: Memory,
    most: u64,
}

impl Bounded {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let memory = Memory::new(NAME, bytes);
        Self {
            most: memory.size().saturating_add(ROOM),
            memory,
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.most) {
            Ok(())
        } else {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            Err(Error::io("cannot write", full).at(offset))
        }
    }
}

impl Storage for Bounded {
    fn name(&self) -> &Path {
        self.memory.name()
    }

    fn size(&self) -> u64 {
        self.memory.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.memory.read_at(buf, offset)
    }
}

impl StorageMut for Bounded {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.memory.write_at(data, offset)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.check(size, 0)?;
        self.memory.set_size(size)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.memory.zero_at(offset, len)
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Opens the further files of a changed image: small ones of noughts.
#[derive(Debug)]
pub(crate) struct Fresh;

impl EditFiles for Fresh {
    fn open(&self, _path: &Path) -> Result<Arc<dyn StorageMut>> {
        Ok(Arc::new(Bounded::new(vec![0; 64 << 10])))
    }
}
