//! A QED's answer to *where is this guest byte?* "Tables" in the specification.

use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, Run, Storage};

use super::header::Header;
use crate::words::{Content, MOST_JOINED, Stretch, Words, rest_of, stored};

/// An L2 entry for a cluster of zeroes; 0 is one that is not stored.
const ZERO: u64 = 1;

/// An opened file.
#[derive(Debug)]
pub(super) struct Qed {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) file_size: u64,
    pub(super) header: Header,
    words: Words,
}

impl Qed {
    /// The file that `header` was read from.
    pub(super) fn new(header: Header, storage: Arc<dyn Storage>) -> Self {
        Self {
            file_size: storage.size(),
            words: Words::new(Arc::clone(&storage), u64::from_le_bytes),
            header,
            storage,
        }
    }

    /// The place of the L2 table with this index, where there is one.
    pub(super) fn l2(&self, index: u64) -> Result<Option<u64>> {
        let fault = |error: Error| error.in_structure("L1 table");
        let l2 = self.words.get(self.header.l1, index).map_err(fault)?;
        if l2 == 0 {
            return Ok(None);
        }
        self.header
            .check_table(l2, self.file_size)
            .map_err(|found| {
                fault(Error::corrupt(
                    "L2 table lies outside the file or off its clusters",
                ))
                .at(self.header.l1.saturating_add(index.saturating_mul(8)))
                .mismatch(format!("whole clusters before {}", self.file_size), found)
                .hint("the file is truncated or damaged: copy it again from its origin")
            })?;
        Ok(Some(l2))
    }

    /// What entry `index` of the L2 table at `l2` says of a whole cluster.
    pub(super) fn cluster(&self, l2: u64, index: u64) -> Result<Content> {
        let entry = self
            .words
            .get(l2, index)
            .map_err(|error| error.in_structure("L2 table"))?;
        match entry {
            0 => Ok(Content::Unallocated),
            ZERO => Ok(Content::Zero),
            host if self.header.check_cluster(host) => Ok(Content::Plain(host)),
            other => Err(
                Error::corrupt("cluster lies over the header or off the clusters")
                    .in_structure("L2 table")
                    .at(entry_at(l2, index))
                    .mismatch(
                        format!(
                            "a multiple of {} from {}",
                            self.header.cluster, self.header.header_bytes
                        ),
                        other,
                    ),
            ),
        }
    }

    /// The stretch at `offset`, inside one cluster or one unallocated L1 entry.
    fn stretch(&self, offset: u64) -> Result<Stretch> {
        let header = &self.header;
        let Some(l2) = self.l2(offset / header.span)? else {
            return Ok(Stretch {
                content: Content::Unallocated,
                len: rest_of(offset, header.span, header.size),
            });
        };
        let index = (offset / header.cluster) % header.entries;
        let len = rest_of(offset, header.cluster, header.size);
        match self.cluster(l2, index)? {
            Content::Plain(host) => {
                let host = host.saturating_add(offset % header.cluster);
                stored(host, len, self.file_size)
                    .map_err(|error| error.in_structure("L2 table").at(entry_at(l2, index)))
            }
            content => Ok(Stretch { content, len }),
        }
    }
}

/// Where entry `index` of the table at `table` is.
pub(super) fn entry_at(table: u64, index: u64) -> u64 {
    table.saturating_add(index.saturating_mul(8))
}

impl Layer for Qed {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.header.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let found = Stretch::join(offset, want.min(left), MOST_JOINED, |at| self.stretch(at))
            .map_err(|error| error.in_file(self.storage.name()))?;
        let run = match found.content {
            Content::Unallocated if self.header.backing_file.is_some() => Run::Below,
            Content::Plain(host) => Run::At {
                storage: Arc::clone(&self.storage),
                offset: host,
            },
            Content::Unallocated | Content::Zero | Content::Packed { .. } => Run::Zero,
        };
        Ok(Located::new(run, found.len))
    }
}
