//! What volumes lie on: a disk to read, and the way to write to it where there is one.
//!
//! One search serves readers and writers. What is put together of disks that were given for
//! writing can be written too, unless it says in one sentence why not; what is put together of
//! disks that were given for reading has no way to write to them.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Located, Result, Window, WindowMut};

/// A disk, and a way to write to it or the reason that there is none.
#[derive(Debug, Clone)]
pub struct Backing {
    disk: Arc<dyn Disk>,
    way: Way,
}

/// The way to write.
#[derive(Debug, Clone)]
enum Way {
    Open(Arc<dyn DiskMut>),
    /// It was given for reading.
    None,
    /// It was given for writing, and that would do harm.
    Shut(Arc<str>),
}

impl From<&Arc<dyn Disk>> for Backing {
    fn from(disk: &Arc<dyn Disk>) -> Self {
        Self {
            disk: Arc::clone(disk),
            way: Way::None,
        }
    }
}

impl From<&Arc<dyn DiskMut>> for Backing {
    fn from(disk: &Arc<dyn DiskMut>) -> Self {
        Self {
            disk: disk.clone(),
            way: Way::Open(Arc::clone(disk)),
        }
    }
}

impl Backing {
    /// `disk`, which is made of `parts`: it can be written where all of them can.
    pub(crate) fn made_of<'a, M: DiskMut + 'static>(
        disk: Arc<M>,
        parts: impl IntoIterator<Item = &'a Self>,
    ) -> Self {
        let barred = parts
            .into_iter()
            .find(|part| !matches!(part.way, Way::Open(_)));
        let way = match barred {
            Some(part) => part.way.clone(),
            None => Way::Open(disk.clone()),
        };
        Self { disk, way }
    }

    /// `disk`, which is made of this one and is not written because of `why`.
    pub(crate) fn unwritten(&self, disk: Arc<dyn Disk>, why: &str) -> Self {
        let way = self.clone().shut(why).way;
        Self { disk, way }
    }

    /// The same, not to be written because of `why`: a sentence without its subject.
    pub(crate) fn shut(self, why: &str) -> Self {
        let way = match self.way {
            Way::Open(_) => Way::Shut(why.into()),
            other => other,
        };
        Self { way, ..self }
    }

    /// [`shut`](Self::shut) where there is a reason.
    pub(crate) fn shut_if(self, why: Option<&str>) -> Self {
        match why {
            Some(why) => self.shut(why),
            None => self,
        }
    }

    /// `len` bytes of it from byte `start`.
    pub(crate) fn window(&self, start: u64, len: u64) -> Result<Self> {
        let way = match &self.way {
            Way::Open(disk) => Way::Open(Arc::new(WindowMut::new(Arc::clone(disk), start, len)?)),
            other => other.clone(),
        };
        Ok(Self {
            disk: Arc::new(Window::new(Arc::clone(&self.disk), start, len)?),
            way,
        })
    }

    /// What another layer makes of it: `read` of the disk, and `write` of the way to write.
    pub(crate) fn layered(
        &self,
        read: impl FnOnce(Arc<dyn Disk>) -> Result<Arc<dyn Disk>>,
        write: impl FnOnce(Arc<dyn DiskMut>) -> Result<Arc<dyn DiskMut>>,
    ) -> Result<Self> {
        match &self.way {
            Way::Open(disk) => Ok(Self::from(&write(Arc::clone(disk))?)),
            other => Ok(Self {
                disk: read(Arc::clone(&self.disk))?,
                way: other.clone(),
            }),
        }
    }

    /// The disk.
    #[must_use]
    pub const fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The disk, to be written.
    ///
    /// # Errors
    /// Usage when it was given for reading; Unsupported, with the reason, when writing would do
    /// harm: an array that lacks members, the origin of a snapshot.
    pub fn writer(&self) -> Result<Arc<dyn DiskMut>> {
        match &self.way {
            Way::Open(disk) => Ok(Arc::clone(disk)),
            Way::None => Err(Error::usage("the disk was opened for reading only")),
            Way::Shut(why) => Err(Error::unsupported(format!("cannot be written: {why}"))),
        }
    }
}

impl Disk for Backing {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.disk.locate(offset, want)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buf, offset)
    }
}
