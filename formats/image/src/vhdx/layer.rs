//! `Vhdx`: one VHDX file's answer to *where is this guest byte?*
//!
//! \[MS-VHDX\] §2.5: the states of payload blocks and of sector bitmap blocks.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Error, Fields, Layer, Located, Result, Run, Storage};

use super::metadata::Geometry;
use super::pages::{Page, Pages};
use super::patched::Patched;
use super::{MIB, Taken};

/// Stretches looked at for one answer, so that none takes long.
const STRETCHES_PER_ANSWER: u32 = 1 << 16;

const STRUCTURE: &str = "block allocation table";

/// State of a sector bitmap block that is there.
const SB_BLOCK_PRESENT: u64 = 6;

/// What a block without data of its own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Zeroes: there is no parent.
    Zero,
    /// The parent's business.
    Below,
}

/// One opened file.
#[derive(Debug)]
pub(super) struct Vhdx {
    file: Arc<dyn Storage>,
    patched: Arc<Patched>,
    geometry: Geometry,
    /// Where the block allocation table begins.
    bat: u64,
    absent: Absent,
    /// Where no block may lie.
    taken: Vec<Taken>,
    pages: Pages,
}

/// A stretch of guest bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    content: Content,
    len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Below,
    Zero,
    /// At this byte of the file.
    Stored(u64),
}

impl Stretch {
    /// The two as one, where `next` simply goes on.
    fn join(self, next: Self) -> Option<Self> {
        let goes_on = match (self.content, next.content) {
            (Content::Stored(here), Content::Stored(there)) => {
                here.checked_add(self.len) == Some(there)
            }
            (here, there) => here == there,
        };
        goes_on.then(|| Self {
            content: self.content,
            len: self.len.saturating_add(next.len),
        })
    }
}

impl Vhdx {
    /// The disk of `geometry` whose table begins at `bat` of `patched`, which is `file` replayed.
    pub(super) fn new(
        file: Arc<dyn Storage>,
        patched: Arc<Patched>,
        geometry: Geometry,
        bat: u64,
        absent: Absent,
        taken: Vec<Taken>,
    ) -> Self {
        Self {
            file,
            pages: Pages::new(Arc::clone(&patched)),
            patched,
            geometry,
            bat,
            absent,
            taken,
        }
    }

    /// Entry `index` of the table, and where it is. `page` is the last page used.
    fn entry(&self, index: u64, page: &mut Option<Page>) -> Result<(u64, u64)> {
        let at = self.bat.saturating_add(index.saturating_mul(8));
        let bytes = match page {
            Some(page) if !page.from(at).is_empty() => page,
            _ => page.insert(self.pages.page(at)?),
        };
        let entry = Fields::new(bytes.from(at), STRUCTURE, at).u64_le(0)?;
        Ok((entry, at))
    }

    /// The stretch at `offset`, inside one block.
    fn stretch(&self, offset: u64, page: &mut Option<Page>) -> Result<Stretch> {
        let geometry = &self.geometry;
        let block = offset / geometry.block;
        let within = offset % geometry.block;
        let len = geometry
            .block
            .get()
            .saturating_sub(within)
            .min(geometry.size.saturating_sub(offset));
        let (entry, at) = self.entry(geometry.payload_entry(block), page)?;
        let fault = |what: String| Error::corrupt(what).in_structure(STRUCTURE).at(at);
        let content = match (entry & 7, self.absent) {
            (0, Absent::Below) => Content::Below,
            // UNDEFINED, ZERO and UNMAPPED are not the parent's either.
            (0, Absent::Zero) | (1..=3, _) => Content::Zero,
            (6, _) => {
                let start = self.place("payload block", entry, at, within.saturating_add(len))?;
                Content::Stored(start.saturating_add(within))
            }
            (7, Absent::Below) => {
                let end = within.saturating_add(len);
                let start = self.place("payload block", entry, at, end)?;
                return self.partial(block, within, len, start, page);
            }
            (7, Absent::Zero) => {
                return Err(fault(
                    "block is partially present in a disk without a parent".to_owned(),
                ));
            }
            (state, _) => return Err(fault(format!("block has the reserved state {state}"))),
        };
        Ok(Stretch { content, len })
    }

    /// The stretch at `within` of a partially present block, whose data begins at `start`: as far
    /// as the sector bitmap says the same.
    fn partial(
        &self,
        block: u64,
        within: u64,
        len: u64,
        start: u64,
        page: &mut Option<Page>,
    ) -> Result<Stretch> {
        let geometry = &self.geometry;
        let sector = geometry.sector;
        let (entry, at) = self.entry(geometry.bitmap_entry(block), page)?;
        if entry & 7 != SB_BLOCK_PRESENT {
            return Err(
                Error::corrupt("sector bitmap of a partially present block is missing")
                    .in_structure(STRUCTURE)
                    .at(at)
                    .mismatch(format!("state {SB_BLOCK_PRESENT}"), entry & 7),
            );
        }
        let bitmap = self.place("sector bitmap block", entry, at, MIB)?;
        let first = (block % geometry.chunk_ratio)
            .saturating_mul(geometry.block.get() / sector)
            .saturating_add(within / sector);
        let from = bitmap.saturating_add(first / 8);
        let bits = self.pages.page(from)?;
        let mut bits = bits.from(from).iter();
        let mut byte = bits.next().copied().unwrap_or(0);
        let mut bit = first % 8;
        let present = byte >> bit & 1 == 1;
        let mut end = sector.get().saturating_sub(within % sector);
        // Ends because `end` grows every round and `len` is finite.
        while end < len {
            bit = bit.saturating_add(1);
            if bit == 8 {
                let Some(next) = bits.next() else {
                    break;
                };
                byte = *next;
                bit = 0;
                if byte == if present { 0xff } else { 0 } {
                    end = end.saturating_add(sector.get().saturating_mul(8));
                    bit = 7;
                    continue;
                }
            }
            if (byte >> bit & 1 == 1) != present {
                break;
            }
            end = end.saturating_add(sector.get());
        }
        Ok(Stretch {
            content: if present {
                Content::Stored(start.saturating_add(within))
            } else {
                Content::Below
            },
            len: end.min(len),
        })
    }

    /// Where the block of `entry` begins; `len` bytes of it must be in the file and over nothing
    /// else. `at` is the entry's own place.
    fn place(&self, what: &'static str, entry: u64, at: u64, len: u64) -> Result<u64> {
        let start = (entry >> 20).saturating_mul(MIB);
        let range: Range<u64> = start..start.saturating_add(len);
        let fault = |text: String| Error::corrupt(text).in_structure(STRUCTURE).at(at);
        if let Some(taken) = self.taken.iter().find(|taken| taken.overlaps(&range)) {
            return Err(fault(format!("{what} lies over the {}", taken.what)));
        }
        let size = self.patched.size();
        if range.end > size {
            // A truncated file is never read as zeroes.
            return Err(fault(format!("{what} lies past the end of the file"))
                .mismatch(format!("an end of at most {size}"), range.end)
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        Ok(start)
    }
}

impl Layer for Vhdx {
    fn size(&self) -> u64 {
        self.geometry.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.geometry.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let mut page = None;
        let mut found = self
            .stretch(offset, &mut page)
            .map_err(|error| error.in_file(self.file.name()))?;
        let mut stretches = 1;
        // Ends because every stretch has at least one byte and `want` is finite. A faulty entry
        // further on is reported when it is asked for, not instead of the good bytes before it.
        while found.len < want && stretches < STRETCHES_PER_ANSWER {
            let Ok(next) = self.stretch(offset.saturating_add(found.len), &mut page) else {
                break;
            };
            match found.join(next) {
                Some(joined) if next.len > 0 => found = joined,
                _ => break,
            }
            stretches = stretches.saturating_add(1);
        }
        let len = found.len.min(want);
        let run = match found.content {
            Content::Below => Run::Below,
            Content::Zero => Run::Zero,
            Content::Stored(offset) => {
                let storage: Arc<dyn Storage> = if self.patched.is_plain(offset, len) {
                    Arc::clone(&self.file)
                } else {
                    self.patched.clone()
                };
                Run::At { storage, offset }
            }
        };
        Ok(Located::new(run, len))
    }
}
