//! Checksums of what the guest sees, as a tree: one digest for each MiB of the disk (a leaf), and one
//! over all of them (the root).
//!
//! A tree can be computed by many threads while a disk is copied, costs nothing for holes, and says
//! where two disks differ. `docs/checksums.md` defines it byte by byte, so that other programs can
//! recompute it. [`Sidecar`] is the file that keeps it beside the image.

mod sidecar;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Located, Result, Run, Window, is_zero};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use sidecar::{Sidecar, sidecar_name};

/// Guest bytes per leaf. The last leaf of a disk ends with it.
pub const LEAF: u64 = 1 << 20;

/// How the input of the root begins.
const ROOT_PREFIX: &[u8] = b"rehost checksum tree 1\n";

/// Zeroes hashed at a time.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256, which every system has a tool for.
    Sha256,
    /// BLAKE3, several times faster where the processor has no instructions for SHA.
    Blake3,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        })
    }
}

/// What a hash function gives: 256 bits.
pub type Digest = [u8; 32];

/// A leaf that is not all zeroes: its number and its digest.
pub type Leaf = (u64, Digest);

impl Algorithm {
    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of `len` zeroes.
    fn of_zeroes(self, len: u64) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.zeroes(len);
        hasher.finish()
    }
}

/// A digest on its way.
enum Hasher {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    fn zeroes(&mut self, len: u64) {
        let mut left = len;
        // Ends because `left` shrinks every round.
        while left > 0 {
            let part = left.min(ZEROES.len() as u64);
            self.update(&ZEROES[..usize::try_from(part).unwrap_or(0)]);
            left -= part;
        }
    }

    fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => hasher.finalize().into(),
            Self::Blake3(hasher) => hasher.finalize().into(),
        }
    }
}

/// Whether the plain digest of the whole disk is wanted besides the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flat {
    /// It is: the disk is hashed in order, by one thread, holes too.
    Wanted,
    /// It is not.
    Unwanted,
}

/// Gathers the leaves of a disk from the threads that copy it.
pub struct Leaves {
    algorithm: Algorithm,
    size: u64,
    found: Mutex<Vec<Leaf>>,
    /// The whole disk's own digest, up to a guest offset.
    flat: Option<Mutex<(Hasher, u64)>>,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves")
            .field("algorithm", &self.algorithm)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Leaves {
    /// None yet, of a disk of `size` bytes.
    #[must_use]
    pub fn new(algorithm: Algorithm, size: u64, flat: Flat) -> Self {
        let flat = (flat == Flat::Wanted).then(|| Mutex::new((Hasher::new(Algorithm::Sha256), 0)));
        Self {
            algorithm,
            size,
            found: Mutex::default(),
            flat,
        }
    }

    /// Whether the bytes must also be given in disk order, to [`Leaves::in_turn`].
    #[must_use]
    pub const fn wants_order(&self) -> bool {
        self.flat.is_some()
    }

    /// Takes the leaves that `plain`, at guest `offset`, is made of; `offset` and its end are
    /// multiples of [`LEAF`], or the disk's end. What is never given is zeroes.
    pub fn add(&self, offset: u64, plain: &[u8]) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        for (number, leaf) in (offset / LEAF..).zip(plain.chunks(1 << 20)) {
            if !is_zero(leaf) {
                leaves.push((number, self.algorithm.digest(leaf)));
            }
        }
        self.know(&leaves);
        leaves
    }

    /// Takes leaves that were computed before.
    pub fn know(&self, leaves: &[Leaf]) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(leaves);
    }

    /// Takes the same bytes in disk order, for the whole disk's own digest.
    pub fn in_turn(&self, offset: u64, plain: &[u8]) {
        if let Some(flat) = &self.flat {
            let (hasher, at) = &mut *flat.lock().unwrap_or_else(PoisonError::into_inner);
            hasher.zeroes(offset.saturating_sub(*at));
            hasher.update(plain);
            *at = offset + plain.len() as u64;
        }
    }

    /// The tree, when the whole disk was given.
    #[must_use]
    pub fn into_tree(self) -> Tree {
        let leaves = self
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let flat = self.flat.map(|flat| {
            let (mut hasher, at) = flat.into_inner().unwrap_or_else(PoisonError::into_inner);
            hasher.zeroes(self.size.saturating_sub(at));
            hasher.finish()
        });
        Tree::new(self.algorithm, self.size, leaves, flat)
    }
}

/// The checksum tree of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What it is made with.
    pub algorithm: Algorithm,
    /// Guest-visible size in bytes.
    pub size: u64,
    /// The leaves that are not all zeroes, in disk order.
    pub leaves: Vec<Leaf>,
    /// The digest over all leaves.
    pub root: Digest,
    /// SHA-256 of the disk's bytes one after the other, if it was asked for: what `sha256sum` prints
    /// of the raw image.
    pub flat: Option<Digest>,
}

impl Tree {
    /// The tree over `leaves`, in any order.
    #[must_use]
    pub fn new(
        algorithm: Algorithm,
        size: u64,
        mut leaves: Vec<Leaf>,
        flat: Option<Digest>,
    ) -> Self {
        leaves.sort_unstable_by_key(|(number, _)| *number);
        let count = size.div_ceil(LEAF);
        let zero = algorithm.of_zeroes(LEAF);
        // The last leaf may be short.
        let tail = algorithm.of_zeroes(size - size.saturating_sub(1) / LEAF * LEAF);
        let mut root = Hasher::new(algorithm);
        root.update(ROOT_PREFIX);
        root.update(&size.to_le_bytes());
        root.update(&LEAF.to_le_bytes());
        let mut stored = leaves.iter().peekable();
        for number in 0..count {
            let digest = match stored.next_if(|(nth, _)| *nth == number) {
                Some((_, digest)) => digest,
                None if number + 1 == count => &tail,
                None => &zero,
            };
            root.update(digest);
        }
        Self {
            algorithm,
            size,
            leaves,
            root: root.finish(),
            flat,
        }
    }

    /// The stretches `(offset, length)` in which this disk and the other one differ, in disk order.
    /// Bytes behind the end of the shorter one count as different.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<(u64, u64)> {
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        let end = self.size.max(other.size);
        let mut differs = |number: u64| {
            let (start, stop) = (number * LEAF, (number + 1).saturating_mul(LEAF).min(end));
            match stretches.last_mut() {
                Some((offset, length)) if *offset + *length == start => *length = stop - *offset,
                _ => stretches.push((start, stop - start)),
            }
        };
        let (mut ours, mut theirs) = (
            self.leaves.iter().peekable(),
            other.leaves.iter().peekable(),
        );
        // Ends because every round takes a leaf from one side at least.
        loop {
            match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some((a, left)), Some((b, right))) if a == b => {
                    if left != right {
                        differs(*a);
                    }
                    ours.next();
                    theirs.next();
                }
                (Some((a, _)), Some((b, _))) if b < a => {
                    differs(*b);
                    theirs.next();
                }
                (Some((a, _)), _) => {
                    differs(*a);
                    ours.next();
                }
                (None, Some((b, _))) => {
                    differs(*b);
                    theirs.next();
                }
            }
        }
        let shorter = self.size.min(other.size);
        if shorter < end && stretches.last().is_none_or(|(at, len)| at + len <= shorter) {
            stretches.push((shorter, end - shorter));
        }
        stretches
    }
}

/// A digest as people read it.
#[must_use]
pub fn hex(digest: &Digest) -> String {
    use fmt::Write;
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Computes the tree of `disk` on all processors.
///
/// # Errors
/// What reading the disk gives.
pub fn tree_of(
    disk: &dyn Disk,
    algorithm: Algorithm,
    flat: Flat,
    options: &crate::copy::CopyOptions<'_>,
) -> Result<Tree> {
    let leaves = Leaves::new(algorithm, disk.size(), flat);
    crate::copy::read_all(
        disk,
        &crate::copy::CopyOptions {
            checksum: Some(&leaves),
            ..*options
        },
    )?;
    Ok(leaves.into_tree())
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The tree of the disk, cut or lengthened with zeroes to the size of the expected one.
    pub found: Tree,
    /// Where the disk's content is another, `(offset, length)` in disk order.
    pub differences: Vec<(u64, u64)>,
}

/// Compares the content of `disk` with the tree `expected`. Sizes may differ by zeroes at the end, as
/// they may for [`crate::copy::compare()`]: some formats count in sectors.
///
/// # Errors
/// What reading the disk gives.
pub fn verify(
    disk: &Arc<dyn Disk>,
    expected: &Tree,
    options: &crate::copy::CopyOptions<'_>,
) -> Result<Verification> {
    let fitted = Fitted {
        disk: Arc::clone(disk),
        size: expected.size,
    };
    let found = tree_of(&fitted, expected.algorithm, Flat::Unwanted, options)?;
    let mut differences = expected.differences(&found);
    let more = disk.size().saturating_sub(expected.size);
    if more > 0 {
        let rest = Window::new(Arc::clone(disk), expected.size, more)?;
        let rest = tree_of(&rest, expected.algorithm, Flat::Unwanted, options)?;
        if !rest.leaves.is_empty() {
            differences.push((expected.size, more));
        }
    }
    Ok(Verification { found, differences })
}

/// A disk cut, or lengthened with zeroes, to a size.
#[derive(Debug)]
struct Fitted {
    disk: Arc<dyn Disk>,
    size: u64,
}

impl Disk for Fitted {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size.saturating_sub(offset).min(want);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        match self.disk.size().saturating_sub(offset) {
            0 => Ok(Located::new(Run::Zero, left)),
            there => self.disk.locate(offset, left.min(there)),
        }
    }
}

#[cfg(test)]
mod tests;
