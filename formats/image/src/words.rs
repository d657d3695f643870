//! `Words`: tables of 8-byte entries in a file, read a page at a time when they are asked for, so
//! that no table need fit into memory whatever its header says; and `Stretch`, what a table walk
//! finds.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Codec, Error, Packed, Result, Run, Storage};

/// Bytes per page.
const PAGE: u64 = 4096;

/// Pages kept (4 MiB). Ours.
const SLOTS: usize = 1024;

/// Stretches that are joined into one answer. Ours: a table full of empty entries ends somewhere.
pub(crate) const MOST_JOINED: u64 = 1 << 16;

/// Access to the tables of one file.
#[derive(Debug)]
pub(crate) struct Words {
    storage: Arc<dyn Storage>,
    file_size: u64,
    decode: fn([u8; 8]) -> u64,
    slots: Vec<Mutex<Option<Page>>>,
}

#[derive(Debug)]
struct Page {
    at: u64,
    words: Vec<u64>,
}

impl Words {
    /// The tables of `storage`, whose entries `decode` reads.
    pub(crate) fn new(storage: Arc<dyn Storage>, decode: fn([u8; 8]) -> u64) -> Self {
        Self {
            file_size: storage.size(),
            storage,
            decode,
            slots: std::iter::repeat_with(Mutex::default).take(SLOTS).collect(),
        }
    }

    /// Entry `index` of the table at byte `table`.
    ///
    /// # Errors
    /// Corrupt when it lies past the end of the file; Io when it cannot be read.
    pub(crate) fn get(&self, table: u64, index: u64) -> Result<u64> {
        let within = index.saturating_mul(8);
        let at = table.saturating_add(within.saturating_sub(within % PAGE));
        let nth = usize::try_from((within % PAGE) / 8).unwrap_or(usize::MAX);
        // Pages of one table are neighbours, so they do not share a slot.
        let slot = usize::try_from(at / PAGE)
            .ok()
            .and_then(|page| page.checked_rem(SLOTS))
            .and_then(|slot| self.slots.get(slot))
            .ok_or_else(|| Error::internal("a page without a slot"))?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let page = match &mut *slot {
            Some(page) if page.at == at => page,
            other => other.insert(self.read(at)?),
        };
        page.words.get(nth).copied().ok_or_else(|| {
            Error::corrupt("table lies past the end of the file")
                .at(at)
                .mismatch(
                    format!("an end of at most {}", self.file_size),
                    table.saturating_add(within).saturating_add(8),
                )
                .hint("the file is truncated or damaged: copy it again from its origin")
        })
    }

    fn read(&self, at: u64) -> Result<Page> {
        let len = PAGE.min(self.file_size.saturating_sub(at));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if !bytes.is_empty() {
            self.storage.read_at(&mut bytes, at)?;
        }
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Page {
            at,
            words: words.iter().map(|word| (self.decode)(*word)).collect(),
        })
    }
}

/// What a table entry says of guest bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Not in this file.
    Unallocated,
    /// Zeroes, whatever a parent has.
    Zero,
    /// Plain, from this byte of the file on.
    Plain(u64),
    /// One compressed cluster.
    Packed {
        /// Its first byte in the file.
        offset: u64,
        /// Its length in the file.
        len: u64,
    },
}

/// The files that a table's entries refer to, and how to read them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    /// Holds plain clusters.
    pub(crate) plain: &'a Arc<dyn Storage>,
    /// Holds compressed ones.
    pub(crate) packed: &'a Arc<dyn Storage>,
    /// The length of that.
    pub(crate) packed_size: u64,
    /// Unpacks them.
    pub(crate) codec: &'a Arc<dyn Codec>,
    /// Guest bytes per cluster.
    pub(crate) unit: NonZeroU64,
}

impl Content {
    /// Where the bytes are. What is not in the file is `absent`; the guest's byte is `within` its
    /// cluster.
    pub(crate) fn run(self, held: &Held<'_>, absent: Run, within: u64) -> Run {
        match self {
            Self::Unallocated => absent,
            Self::Zero => Run::Zero,
            Self::Plain(offset) => Run::At {
                storage: Arc::clone(held.plain),
                offset,
            },
            Self::Packed { offset, len } => Run::Packed(Packed {
                storage: Arc::clone(held.packed),
                offset,
                // The last sector need not be whole: only its compressed bytes count.
                len: len.min(held.packed_size.saturating_sub(offset)),
                codec: Arc::clone(held.codec),
                unit: held.unit,
                skip: within,
            }),
        }
    }
}

/// Guest bytes of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) content: Content,
    pub(crate) len: u64,
}

impl Stretch {
    /// The stretch at `offset`, as `find` tells it, with as many following ones as simply go on,
    /// until `want` bytes are covered or `most` stretches are joined.
    ///
    /// # Errors
    /// What `find` gives for the first one: a faulty entry further on is reported when it is asked
    /// for, not instead of the good bytes before it.
    pub(crate) fn join(
        offset: u64,
        want: u64,
        most: u64,
        mut find: impl FnMut(u64) -> Result<Self>,
    ) -> Result<Self> {
        let mut found = find(offset)?;
        for _ in 0..most {
            if found.len >= want {
                break;
            }
            let Ok(next) = find(offset.saturating_add(found.len)) else {
                break;
            };
            let goes_on = match (found.content, next.content) {
                (Content::Unallocated, Content::Unallocated) | (Content::Zero, Content::Zero) => {
                    true
                }
                (Content::Plain(here), Content::Plain(there)) => {
                    here.checked_add(found.len) == Some(there)
                }
                _ => false,
            };
            if !goes_on || next.len == 0 {
                break;
            }
            found.len = found.len.saturating_add(next.len);
        }
        found.len = found.len.min(want);
        Ok(found)
    }
}

/// A cluster that is stored plainly from `host` on, of which `len` bytes are wanted: a truncated
/// file is never read as zeroes, but whole sectors before its end can be had.
///
/// # Errors
/// Corrupt when not even one sector is there.
pub(crate) fn stored(host: u64, len: u64, file_size: u64) -> Result<Stretch> {
    let there = file_size.saturating_sub(host);
    let len = if there >= len { len } else { there & !511 };
    if len == 0 {
        return Err(Error::corrupt("cluster lies past the end of the file")
            .mismatch(
                format!("an end of at most {file_size}"),
                host.saturating_add(1),
            )
            .hint("the file is truncated or damaged: copy it again from its origin"));
    }
    Ok(Stretch {
        content: Content::Plain(host),
        len,
    })
}

/// Guest bytes from `offset` to the end of the piece of `span` bytes that it lies in, or of the
/// disk.
pub(crate) fn rest_of(offset: u64, span: NonZeroU64, size: u64) -> u64 {
    let left = span.get().saturating_sub(offset % span);
    left.min(size.saturating_sub(offset))
}
