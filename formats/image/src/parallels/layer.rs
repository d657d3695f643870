//! An expanding image's answer to *where is this guest byte?*

use std::collections::HashSet;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, Run, Storage};

use super::SECTOR;
use super::header::{Header, Kind, LEN};
use crate::words::{Content, stored};

/// What a cluster that is not stored is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Zero,
    Below,
}

/// An opened image.
#[derive(Debug)]
pub(super) struct Expanding {
    storage: Arc<dyn Storage>,
    file_size: u64,
    header: Header,
    bat: Vec<u32>,
    absent: Absent,
}

impl Expanding {
    /// The image that `header` was read from.
    ///
    /// # Errors
    /// Corrupt when it says that it is empty and is not, or was not closed and has a BAT that
    /// contradicts itself or the file.
    pub(super) fn open(header: Header, storage: Arc<dyn Storage>, absent: Absent) -> Result<Self> {
        // The header compared its length with the file's.
        let len = usize::try_from(header.entries.saturating_mul(4))
            .map_err(|_| Error::unsupported("BAT exceeds this machine's memory"))?;
        let mut bytes = vec![0; len];
        storage.read_at(&mut bytes, LEN)?;
        let (words, _) = bytes.as_chunks::<4>();
        let image = Self {
            file_size: storage.size(),
            bat: words.iter().map(|word| u32::from_le_bytes(*word)).collect(),
            header,
            storage,
            absent,
        };
        image
            .check()
            .map_err(|error| error.in_file(image.storage.name()))?;
        Ok(image)
    }

    fn check(&self) -> Result<()> {
        if self.header.empty
            && let Some(index) = self.bat.iter().position(|entry| *entry != 0)
        {
            return Err(Error::corrupt("is marked as empty and holds clusters")
                .in_structure("BAT")
                .at(bat_at(index)));
        }
        if !self.header.in_use {
            return Ok(());
        }
        let repair =
            "the image was not closed after its last use: qemu-img check -r all repairs it";
        let mut seen = HashSet::new();
        for (index, entry) in self
            .bat
            .iter()
            .enumerate()
            .filter(|(_, entry)| **entry != 0)
        {
            let number = u64::try_from(index).unwrap_or(u64::MAX);
            self.cluster(number)
                .and_then(|place| match place {
                    Some(host) => stored(host, SECTOR, self.file_size).map(drop),
                    None => Ok(()),
                })
                .map_err(|error| error.in_structure("BAT").at(bat_at(index)).hint(repair))?;
            if !seen.insert(*entry) {
                return Err(Error::corrupt("cluster is in use already")
                    .in_structure("BAT")
                    .at(bat_at(index))
                    .hint(repair));
            }
        }
        Ok(())
    }

    /// The first byte of cluster `index` in the file; nothing when it is not stored.
    fn cluster(&self, index: u64) -> Result<Option<u64>> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(entry) = self.bat.get(at).filter(|entry| **entry != 0) else {
            return Ok(None);
        };
        let unit = match self.header.kind {
            Kind::Sectors => SECTOR,
            Kind::Clusters => self.header.cluster.get(),
        };
        let host = u64::from(*entry).saturating_mul(unit);
        if host < self.header.data {
            return Err(Error::corrupt("cluster lies before the data area")
                .in_structure("BAT")
                .at(bat_at(at))
                .mismatch(format!("at least {}", self.header.data), host));
        }
        Ok(Some(host))
    }

    /// What `len` bytes from `within` on of cluster `index` are.
    fn content(&self, index: u64) -> Result<Content> {
        Ok(match self.cluster(index)? {
            Some(host) => Content::Plain(host),
            None => Content::Unallocated,
        })
    }

    fn find(&self, offset: u64, want: u64) -> Result<Located> {
        let cluster = self.header.cluster;
        let (index, within) = (offset / cluster, offset % cluster);
        let first = self.content(index)?;
        let mut len = cluster.get().saturating_sub(within);
        let mut next = index;
        // Ends because the BAT does, and `len` grows every round.
        while len < want {
            next = next.saturating_add(1);
            // A faulty entry further on is reported when it is asked for.
            let Ok(content) = self.content(next) else {
                break;
            };
            let goes_on = match (first, content) {
                (Content::Plain(here), Content::Plain(there)) => {
                    here.saturating_add(within).checked_add(len) == Some(there)
                }
                (here, there) => here == there,
            };
            if !goes_on {
                break;
            }
            len = len.saturating_add(cluster.get());
        }
        let len = len.min(want);
        let Content::Plain(host) = first else {
            let run = match self.absent {
                Absent::Zero => Run::Zero,
                Absent::Below => Run::Below,
            };
            return Ok(Located::new(run, len));
        };
        let at = host.saturating_add(within);
        let found = stored(at, len, self.file_size).map_err(|error| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            error.in_structure("BAT").at(bat_at(index))
        })?;
        let run = Run::At {
            storage: Arc::clone(&self.storage),
            offset: at,
        };
        Ok(Located::new(run, found.len))
    }
}

/// Where an entry of the BAT is in the file.
fn bat_at(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    LEN.saturating_add(index.saturating_mul(4))
}

impl Layer for Expanding {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.header.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        self.find(offset, want.min(left))
            .map_err(|error| error.in_file(self.storage.name()))
    }
}
