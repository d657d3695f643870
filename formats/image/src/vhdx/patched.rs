//! `Patched`: the file as it is once its log is replayed, without writing to it.
//!
//! \[MS-VHDX\] §2.3.3. What the log changes is kept in memory; everything else is read from the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{Error, Result, Storage, StorageMut};

use super::{amount, length};

/// The unit of all that a log changes, in bytes.
pub(super) const LOG_SECTOR: u64 = 4096;

/// A file and what its log changes.
#[derive(Debug)]
pub(super) struct Patched {
    file: Arc<dyn Storage>,
    size: u64,
    /// By their first byte; none overlaps another.
    patches: BTreeMap<u64, Patch>,
}

#[derive(Debug)]
struct Patch {
    end: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Zero,
    /// [`LOG_SECTOR`] bytes.
    Bytes(Vec<u8>),
}

impl Patched {
    /// `file`, unchanged.
    pub(super) fn new(file: Arc<dyn Storage>) -> Self {
        Self {
            size: file.size(),
            file,
            patches: BTreeMap::new(),
        }
    }

    /// Lets the file end at `size`, unless it is longer already.
    pub(super) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Makes the range read as zeroes. Both ends are multiples of [`LOG_SECTOR`].
    pub(super) fn zero(&mut self, start: u64, end: u64) {
        if start < end {
            self.put(start, end, Content::Zero);
        }
    }

    /// Puts one log sector at `start`, a multiple of [`LOG_SECTOR`].
    pub(super) fn write(&mut self, start: u64, sector: Vec<u8>) {
        let end = start.saturating_add(amount(sector.len()));
        self.put(start, end, Content::Bytes(sector));
    }

    fn put(&mut self, start: u64, end: u64, content: Content) {
        // Sectors are aligned and so lie inside the range or outside: only zeroes are ever cut.
        let before = self.patches.range_mut(..start).next_back();
        let reaches = before.and_then(|(_, patch)| {
            let old = patch.end;
            patch.end = old.min(start);
            (old > end).then_some(old)
        });
        let inside: Vec<u64> = self.patches.range(start..end).map(|(at, _)| *at).collect();
        let cut = inside
            .iter()
            .filter_map(|at| self.patches.remove(at))
            .map(|patch| patch.end)
            .find(|old| *old > end);
        if let Some(old) = reaches.or(cut) {
            let rest = Patch {
                end: old,
                content: Content::Zero,
            };
            self.patches.insert(end, rest);
        }
        self.patches.insert(start, Patch { end, content });
    }

    /// Writes to `storage`, which is the file, what the log changes.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn apply(&self, storage: &dyn StorageMut) -> Result<()> {
        if storage.size() < self.size {
            storage.set_size(self.size)?;
        }
        for (start, patch) in &self.patches {
            match &patch.content {
                Content::Zero => storage.zero_at(*start, patch.end.saturating_sub(*start))?,
                Content::Bytes(bytes) => storage.write_at(bytes, *start)?,
            }
        }
        Ok(())
    }

    /// Whether the file itself holds all of the range, so that it can be read, and shared, without
    /// this overlay.
    pub(super) fn is_plain(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        end <= self.file.size()
            && self
                .patches
                .range(..end)
                .next_back()
                .is_none_or(|(_, patch)| patch.end <= start)
    }

    /// The piece that `at` lies in: its end, and the patch (with its start) if there is one.
    fn piece(&self, at: u64) -> (u64, Option<(u64, &Content)>) {
        if let Some((start, patch)) = self.patches.range(..=at).next_back()
            && patch.end > at
        {
            return (patch.end, Some((*start, &patch.content)));
        }
        let next = self.patches.range(at..).next();
        (next.map_or(u64::MAX, |(start, _)| *start), None)
    }
}

impl Storage for Patched {
    fn name(&self) -> &Path {
        self.file.name()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if self.size.saturating_sub(offset) < amount(buf.len()) {
            return Err(Error::corrupt("file is truncated")
                .in_file(self.name())
                .at(offset)
                .mismatch(
                    format!("{} more bytes", buf.len()),
                    self.size.saturating_sub(offset),
                ));
        }
        let mut at = offset;
        let mut rest = buf;
        // Ends because every piece ends after `at`.
        while !rest.is_empty() {
            let (end, patch) = self.piece(at);
            let len = length(end.saturating_sub(at))?.min(rest.len());
            let (part, tail) = rest.split_at_mut(len);
            match patch {
                Some((_, Content::Zero)) => part.fill(0),
                Some((start, Content::Bytes(bytes))) => {
                    let from = length(at.saturating_sub(start))?;
                    let source = bytes.get(from..from.saturating_add(len));
                    part.copy_from_slice(
                        source.ok_or_else(|| Error::internal("a short log sector").at(at))?,
                    );
                }
                None => {
                    let stored = length(self.file.size().saturating_sub(at).min(amount(len)))?;
                    let (stored, grown) = part.split_at_mut(stored);
                    if !stored.is_empty() {
                        self.file.read_at(stored, at)?;
                    }
                    grown.fill(0);
                }
            }
            at = at.saturating_add(amount(len));
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rehost_block::Memory;

    proptest! {
        #[test]
        fn changes_read_back_in_their_order(
            changes in prop::collection::vec((0u64..16, 1u64..6, any::<bool>()), 0..24),
            grown in 0u64..20,
        ) {
            let sector = 4096usize;
            let mut expected = vec![0x11; 16 * sector];
            let mut patched = Patched::new(Arc::new(Memory::new("x", expected.clone())));
            expected.resize(22 * sector, 0);
            patched.grow(22 * LOG_SECTOR);
            patched.grow(grown * LOG_SECTOR);
            let mut touched = [false; 22];
            for (nth, (at, count, data)) in changes.into_iter().enumerate() {
                let start = usize::try_from(at).unwrap() * sector;
                if data {
                    let bytes = vec![0x20 + u8::try_from(nth).unwrap(); sector];
                    expected[start..start + sector].copy_from_slice(&bytes);
                    patched.write(at * LOG_SECTOR, bytes);
                    touched[usize::try_from(at).unwrap()] = true;
                } else {
                    let len = usize::try_from(count).unwrap() * sector;
                    expected[start..start + len].fill(0);
                    patched.zero(at * LOG_SECTOR, (at + count) * LOG_SECTOR);
                    touched[usize::try_from(at).unwrap()..][..usize::try_from(count).unwrap()].fill(true);
                }
            }
            for step in [sector, 1000, 22 * sector] {
                let mut found = vec![0xff; 22 * sector];
                for (nth, part) in found.chunks_mut(step).enumerate() {
                    patched.read_at(part, (nth * step) as u64).unwrap();
                }
                prop_assert!(found == expected, "read {} bytes at a time", step);
            }
            for (nth, touched) in touched.iter().enumerate() {
                let plain = patched.is_plain(nth as u64 * LOG_SECTOR, LOG_SECTOR);
                prop_assert_eq!(plain, !touched && nth < 16);
            }
            prop_assert!(patched.read_at(&mut [0], 22 * LOG_SECTOR).is_err());
        }
    }
}
