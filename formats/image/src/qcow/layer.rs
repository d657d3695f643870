//! A QCOW's answer to *where is this guest byte?*

use std::sync::Arc;

use rehost_block::{Codec, Error, Layer, Located, Result, Run, Storage};

use super::header::Header;
use crate::codec::RawDeflate;
use crate::words::{Content, Held, MOST_JOINED, Stretch, Words, rest_of, stored};

/// Set in the L2 entry of a compressed cluster.
const COMPRESSED: u64 = 1 << 63;

/// An opened file.
#[derive(Debug)]
pub(super) struct Qcow {
    storage: Arc<dyn Storage>,
    file_size: u64,
    header: Header,
    words: Words,
    codec: Arc<dyn Codec>,
}

impl Qcow {
    /// The file that `header` was read from.
    pub(super) fn new(header: Header, storage: Arc<dyn Storage>) -> Self {
        Self {
            file_size: storage.size(),
            words: Words::new(Arc::clone(&storage), u64::from_be_bytes),
            header,
            storage,
            codec: Arc::new(RawDeflate),
        }
    }

    /// The stretch at `offset`, inside one cluster or one unallocated L1 entry.
    fn stretch(&self, offset: u64) -> Result<Stretch> {
        let header = &self.header;
        let l1_index = offset / header.span;
        let l2 = self
            .words
            .get(header.l1, l1_index)
            .map_err(|error| error.in_structure("L1 table"))?;
        if l2 == 0 {
            return Ok(Stretch {
                content: Content::Unallocated,
                len: rest_of(offset, header.span, header.size),
            });
        }
        let l2_index = (offset / header.cluster) % header.l2_entries;
        let entry = self
            .words
            .get(l2, l2_index)
            .map_err(|error| error.in_structure("L2 table"))?;
        let fault = |error: Error| {
            error
                .in_structure("L2 table")
                .at(l2.saturating_add(l2_index.saturating_mul(8)))
        };
        let len = rest_of(offset, header.cluster, header.size);
        if entry == 0 {
            return Ok(Stretch {
                content: Content::Unallocated,
                len,
            });
        }
        if entry & COMPRESSED != 0 {
            return self.packed(entry, len).map_err(fault);
        }
        if entry % 512 != 0 {
            return Err(fault(Error::corrupt("cluster is not aligned to a sector")));
        }
        let within = offset % header.cluster;
        stored(entry.saturating_add(within), len, self.file_size).map_err(fault)
    }

    /// The upper bits of the entry, as many as a cluster has, are its length; the rest is its place.
    fn packed(&self, entry: u64, len: u64) -> Result<Stretch> {
        let shift = 63u32.saturating_sub(self.header.cluster_bits);
        let mask = 1u64.checked_shl(shift).unwrap_or(0).saturating_sub(1);
        let place = entry & mask;
        let packed =
            entry.checked_shr(shift).unwrap_or(0) & self.header.cluster.get().saturating_sub(1);
        let end = place.saturating_add(packed);
        if packed == 0 || end > self.file_size {
            return Err(
                Error::corrupt("compressed cluster lies past the end of the file")
                    .mismatch(
                        format!("bytes that end at {} at most", self.file_size),
                        format!("{packed} bytes from {place}"),
                    )
                    .hint("the file is truncated or damaged: copy it again from its origin"),
            );
        }
        Ok(Stretch {
            content: Content::Packed {
                offset: place,
                len: packed,
            },
            len,
        })
    }
}

impl Layer for Qcow {
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
        let absent = match self.header.backing_file {
            Some(_) => Run::Below,
            None => Run::Zero,
        };
        let held = Held {
            plain: &self.storage,
            packed: &self.storage,
            packed_size: self.file_size,
            codec: &self.codec,
            unit: self.header.cluster,
        };
        let run = found
            .content
            .run(&held, absent, offset % self.header.cluster);
        Ok(Located::new(run, found.len))
    }
}
