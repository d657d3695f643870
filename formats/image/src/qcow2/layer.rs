//! `Qcow2`: one qcow2 file's answer to *where is this guest byte?*

use std::sync::Arc;

use rehost_block::{Codec, Error, Layer, Located, Result, Run, Storage, round_up};

use rehost_luks::SectorCipher;

use super::encryption;
use super::entry::{Content, HostOffset, Rules};
use super::header::{Header, past_end};
use super::tables::{L2Table, Tables};
use crate::words::{self, Held, Stretch};

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
                content: words::Content::Unallocated,
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
                if end > round_up(self.storage_size, 512) {
                    let error = fault("compressed cluster lies past the end of the file");
                    return Err(past_end(error, end, self.storage_size));
                }
            }
            Content::Unallocated | Content::Zero => {}
        }
        Ok(Stretch {
            content: content.into(),
            len,
        })
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
        let mut table = None;
        // Ends without a limit on stretches: each has at least one byte, and L1 entries are few.
        let find = |at| self.stretch(at, &mut table);
        let found = Stretch::join(offset, want.min(left), u64::MAX, find)
            .map_err(|error| error.in_file(self.storage.name()))?;
        let len = found.len;
        if let (words::Content::Plain(host), Some(cipher)) = (found.content, &self.cipher) {
            let (run, len) = encryption::run(cipher, &self.data, host, len);
            return Ok(Located::new(run, len));
        }
        let absent = if self.has_backing {
            Run::Below
        } else {
            Run::Zero
        };
        let held = Held {
            plain: &self.data,
            packed: &self.storage,
            packed_size: self.storage_size,
            codec: &self.codec,
            unit: self.rules.geometry.unit(),
        };
        let within = self.rules.geometry.position(offset).within;
        let run = found.content.run(&held, absent, within);
        Ok(Located::new(run, len))
    }
}
