//! `Claims`: the parts of a file that its tables refer to. Who lies over whom, what lies between
//! them, where the last one ends.

use std::ops::Range;

use rehost_block::{Error, Result, Storage, StorageMut};

/// A part of the file, in bytes, and where the reference to it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The byte of the table entry.
    pub(crate) entry: u64,
}

/// Claims in the order of the file.
#[derive(Debug)]
pub(crate) struct Claims(Vec<Claim>);

impl Claims {
    /// Puts `claims` in order.
    pub(crate) fn new(mut claims: Vec<Claim>) -> Self {
        claims.sort_unstable();
        Self(claims)
    }

    /// Each claim that lies over one before it, with that one.
    pub(crate) fn overlaps(&self) -> impl Iterator<Item = (Claim, Claim)> {
        let mut farthest: Option<Claim> = None;
        self.0.iter().filter_map(move |claim| {
            let before = farthest.filter(|before| before.end > claim.start);
            if farthest.is_none_or(|before| claim.end > before.end) {
                farthest = Some(*claim);
            }
            before.map(|before| (*claim, before))
        })
    }

    /// What lies between the claims, of `least` bytes or more.
    pub(crate) fn gaps(&self, least: u64) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut end = 0;
        for claim in &self.0 {
            if claim.start.saturating_sub(end) >= least.max(1) {
                gaps.push(end..claim.start);
            }
            end = claim.end.max(end);
        }
        gaps
    }

    /// Whether a claim begins in `range`.
    pub(crate) fn starts_in(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|claim| range.contains(&claim.start))
    }

    /// Where the last claim ends.
    pub(crate) fn end(&self) -> u64 {
        self.0.iter().map(|claim| claim.end).max().unwrap_or(0)
    }
}

/// Whether `storage` is a block device, whose length is not the image's.
pub(crate) fn is_device<S: Storage + ?Sized>(storage: &S) -> bool {
    use std::os::unix::fs::FileTypeExt;
    storage
        .as_file()
        .and_then(|file| file.metadata().ok())
        .is_some_and(|meta| meta.file_type().is_block_device())
}

/// Lets the file be `end` bytes long at least, and gives its length before. What is new reads as
/// zeroes.
///
/// # Errors
/// Usage for a block device that ends before; Io when the storage fails.
pub(crate) fn ensure_length(storage: &dyn StorageMut, end: u64) -> Result<u64> {
    let old = storage.size();
    if old < end {
        if is_device(storage) {
            return Err(too_small(storage, end, old));
        }
        storage.set_size(end)?;
    }
    Ok(old)
}

/// The error for a device of `has` bytes that needs `end`.
pub(crate) fn too_small(storage: &dyn StorageMut, end: u64, has: u64) -> Error {
    Error::usage("device is too small for the data")
        .in_file(storage.name())
        .mismatch(format!("at least {end} bytes"), has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_gaps_and_the_end_are_found_in_any_order() {
        let claim = |start, end, entry| Claim { start, end, entry };
        let claims = Claims::new(vec![
            claim(500, 600, 3),
            claim(0, 100, 0),
            claim(150, 400, 1),
            claim(200, 250, 2),
            claim(390, 410, 4),
        ]);
        let over: Vec<(u64, u64)> = claims.overlaps().map(|(a, b)| (a.entry, b.entry)).collect();
        assert_eq!(over, [(2, 1), (4, 1)]);
        assert_eq!(claims.gaps(1), [100..150, 410..500]);
        assert_eq!(claims.gaps(60).first(), Some(&(410..500)));
        assert_eq!(claims.end(), 600);
    }
}
