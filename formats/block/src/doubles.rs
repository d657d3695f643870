//! Storages for tests: `Faulty` fails its n-th write, `Counting` counts what was read.
//! ([`Memory`](crate::Memory) is the third.) Public, because the tests of every crate use them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::amount;
use crate::{Error, Presence, Result, Storage, StorageMut};

/// Passes everything on, and fails every write from the n-th on, as a full disk does.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    writes_left: AtomicU64,
}

impl<S> Faulty<S> {
    /// The first `writes` writes succeed.
    pub const fn after(inner: S, writes: u64) -> Self {
        Self {
            inner,
            writes_left: AtomicU64::new(writes),
        }
    }

    /// What is behind it.
    pub const fn inner(&self) -> &S {
        &self.inner
    }

    fn spend(&self) -> Result<()> {
        self.writes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .map(drop)
            .map_err(|_| Error::new(crate::Kind::Io, "injected write failure"))
    }
}

impl<S: Storage> Storage for Faulty<S> {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        self.inner.presence(offset, want)
    }
}

impl<S: StorageMut> StorageMut for Faulty<S> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.spend()?;
        self.inner.write_at(data, offset)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.spend()?;
        self.inner.set_size(size)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.spend()?;
        self.inner.zero_at(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}

/// Passes everything on and counts the bytes read.
#[derive(Debug)]
pub struct Counting {
    inner: Arc<dyn Storage>,
    read: AtomicU64,
}

impl Counting {
    /// Counts reads of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            read: AtomicU64::new(0),
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }
}

impl Storage for Counting {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read.fetch_add(amount(buf.len()), Ordering::SeqCst);
        self.inner.read_at(buf, offset)
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        self.inner.presence(offset, want)
    }
}
