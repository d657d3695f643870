//! `Qcow2`: one qcow2 file's answer to *where is this guest byte?*

use std::sync::Arc;

use rehost_block::{Codec, Error, Layer, Located, Packed, Result, Run, Storage};

use rehost_luks::SectorCipher;

use super::encryption;
use super::entry::{Content, HostOffset, Rules};
use super::header::{Header, past_end};
use super::tables::{L2Table, Tables};

/// One opened file.
#[derive(Debug)]
pub(super) struct Qcow2 {
    size: u64,
    rules: Rules,
    tables: Tables,
    /// Holds compressed clusters, and plain ones unless there is a data file.
    storage: Arc<dyn Storage>,
    /// Holds plain clusters.
    data: Arc<dyn Storage>,
    data_size: u64,
    storage_size: u64,
    codec: Arc<dyn Codec>,
    /// Decrypts plain clusters, where they are encrypted.
    cipher: Option<Arc<SectorCipher>>,
    has_backing: bool,
}

/// A stretch of guest bytes of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub(super) content: Content,
    pub(super) len: u64,
}

impl Stretch {
    /// The two as one, where `next` simply goes on.
    pub(super) fn join(self, next: Self) -> Option<Self> {
        let goes_on = match (self.content, next.content) {
            (Content::Unallocated, Content::Unallocated) | (Content::Zero, Content::Zero) => true,
            (Content::Plain(HostOffset(here)), Content::Plain(HostOffset(there))) => {
                here.checked_add(self.len) == Some(there)
            }
            _ => false,
        };
        goes_on.then(|| Self {
            content: self.content,
            len: self.len.saturating_add(next.len),
        })
    }
}

impl Qcow2 {
    /// The active layer of the image that `header` was read from. Plain clusters are in `data`
    /// where the image has a data file.
    pub(super) fn new(
        header: &Header,
        storage: Arc<dyn Storage>,
        data: Option<Arc<dyn Storage>>,
        cipher: Option<Arc<SectorCipher>>,
    ) -> Result<Self> {
        let rules = Rules {
            geometry: header.geometry,
            zero_clusters: header.version > 2,
            data_file: data.is_some(),
        };
        let data = data.unwrap_or_else(|| Arc::clone(&storage));
        Ok(Self {
            size: header.size,
            rules,
            tables: Tables::read(header, Arc::clone(&storage))?,
            data_size: data.size(),
            storage_size: storage.size(),
            data,
            storage,
            codec: header.compression.codec(),
            cipher,
            has_backing: header.backing_file.is_some(),
        })
    }

    /// The stretch at `offset`, inside one cluster or one unallocated L1 entry. `table` is the
    /// last one used, so that a long run does not go through the cache for every cluster.
    fn stretch(
        &self,
        offset: u64,
        table: &mut Option<(u64, Option<Arc<L2Table>>)>,
    ) -> Result<Stretch> {
        let geometry = &self.rules.geometry;
        let position = geometry.position(offset);
        let l2 = match table {
            Some((index, l2)) if *index == position.l1 => l2,
            _ => &mut table.insert((position.l1, self.tables.l2(position.l1)?)).1,
        };
        let left = self.size.saturating_sub(offset);
        let Some(l2) = l2 else {
            let span = geometry.l2_span();
            let len = span.saturating_sub(offset.checked_rem(span).unwrap_or(0));
            return Ok(Stretch {
                content: Content::Unallocated,
                len: len.min(left),
            });
        };
        let place = l2.offset_of(position.l2);
        let fault = |what: &str| Error::corrupt(what).in_structure("L2 table").at(place);
        let (content, len) = self
            .rules
            .read(l2.entry(position.l2)?, position.within)
            .map_err(fault)?;
        let len = len.min(left);
        // A truncated file is never read as zeroes.
        match content {
            Content::Plain(HostOffset(host)) => {
                let end = host.saturating_add(len);
                if end > self.data_size {
                    let error =
                        fault("cluster lies past the end of the file").in_file(self.data.name());
                    return Err(past_end(error, end, self.data_size));
                }
            }
            Content::Packed { offset, len } => {
                // The last sector need not be whole: only its compressed bytes count.
                let end = offset.0.saturating_add(len);
                if end > self.storage_size.next_multiple_of(512) {
                    let error = fault("compressed cluster lies past the end of the file");
                    return Err(past_end(error, end, self.storage_size));
                }
            }
            Content::Unallocated | Content::Zero => {}
        }
        Ok(Stretch { content, len })
    }
}

impl Layer for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let mut table = None;
        let mut found = self
            .stretch(offset, &mut table)
            .map_err(|error| error.in_file(self.storage.name()))?;
        // Ends because every stretch has at least one byte and `want` is finite. A faulty entry
        // further on is reported when it is asked for, not instead of the good bytes before it.
        while found.len < want {
            let Ok(next) = self.stretch(offset.saturating_add(found.len), &mut table) else {
                break;
            };
            match found.join(next) {
                Some(joined) if next.len > 0 => found = joined,
                _ => break,
            }
        }
        let len = found.len.min(want);
        if let (Content::Plain(HostOffset(host)), Some(cipher)) = (found.content, &self.cipher) {
            let (run, len) = encryption::run(cipher, &self.data, host, len);
            return Ok(Located::new(run, len));
        }
        let run = match found.content {
            Content::Unallocated if self.has_backing => Run::Below,
            Content::Unallocated | Content::Zero => Run::Zero,
            Content::Plain(HostOffset(host)) => Run::At {
                storage: Arc::clone(&self.data),
                offset: host,
            },
            Content::Packed { offset: host, len } => Run::Packed(Packed {
                storage: Arc::clone(&self.storage),
                offset: host.0,
                len: len.min(self.storage_size.saturating_sub(host.0)),
                codec: Arc::clone(&self.codec),
                unit: self.rules.geometry.unit(),
                skip: self.rules.geometry.position(offset).within,
            }),
        };
        Ok(Located::new(run, len))
    }
}
