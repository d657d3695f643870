//! `Sidecar`: the file that keeps a disk's checksum tree, as JSON.

use std::path::{Path, PathBuf};

use rehost_block::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Algorithm, Digest, LEAF, Leaf, Tree, hex};

/// The version of the file. Others are refused.
const VERSION: u32 = 1;

/// Longest file that is read: the digests of 4 TiB of data.
const MOST_BYTES: u64 = 320 << 20;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// The version of the file's own layout.
    pub rehost_checksums: u32,
    /// The hash function.
    pub algorithm: Algorithm,
    /// Guest-visible size in bytes.
    pub size: u64,
    /// Guest bytes per leaf.
    pub leaf_size: u64,
    /// The digest over all leaves.
    pub root: String,
    /// SHA-256 of the whole disk as a raw image, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flat_sha256: Option<String>,
    /// Neighbouring leaves. Leaves that are in none are all zeroes.
    pub extents: Vec<Extent>,
}

/// Leaves that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Guest offset of the first, in bytes.
    pub offset: u64,
    /// Their digests.
    pub leaves: Vec<String>,
}

/// What the sidecar of the image `name` is called.
#[must_use]
pub fn sidecar_name(name: &Path) -> PathBuf {
    let mut sidecar = name.as_os_str().to_owned();
    sidecar.push(".checksums.json");
    PathBuf::from(sidecar)
}

impl From<&Tree> for Sidecar {
    fn from(tree: &Tree) -> Self {
        let mut extents: Vec<Extent> = Vec::new();
        let mut next = None;
        for (number, digest) in &tree.leaves {
            match extents.last_mut() {
                Some(extent) if next == Some(*number) => extent.leaves.push(hex(digest)),
                _ => extents.push(Extent {
                    offset: number * LEAF,
                    leaves: vec![hex(digest)],
                }),
            }
            next = number.checked_add(1);
        }
        Self {
            rehost_checksums: VERSION,
            algorithm: tree.algorithm,
            size: tree.size,
            leaf_size: LEAF,
            root: hex(&tree.root),
            flat_sha256: tree.flat.as_ref().map(hex),
            extents,
        }
    }
}

impl Sidecar {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Io when it cannot be read; Corrupt when it is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |error| Error::io("cannot be read", error).in_file(path);
        let len = path.metadata().map_err(failed)?.len();
        if len > MOST_BYTES {
            return Err(Error::unsupported("is too long for a file of checksums")
                .in_file(path)
                .mismatch(format!("at most {MOST_BYTES} bytes"), len));
        }
        let text = std::fs::read(path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::corrupt("is no file of checksums")
                .in_file(path)
                .because(error)
        })
    }

    /// The tree that it keeps.
    ///
    /// # Errors
    /// Unsupported for another version or leaf size; Corrupt when it contradicts itself.
    pub fn tree(&self) -> Result<Tree> {
        if self.rehost_checksums != VERSION || self.leaf_size != LEAF {
            return Err(
                Error::unsupported("is another version of the checksum file").mismatch(
                    format!("version {VERSION}, leaves of {LEAF} bytes"),
                    format!("version {}, {}", self.rehost_checksums, self.leaf_size),
                ),
            );
        }
        let mut leaves: Vec<Leaf> = Vec::new();
        for extent in &self.extents {
            if extent.offset % LEAF != 0 {
                return Err(Error::corrupt("extent does not begin at a leaf").at(extent.offset));
            }
            for (number, text) in (extent.offset / LEAF..).zip(&extent.leaves) {
                if number >= self.size.div_ceil(LEAF) {
                    return Err(
                        Error::corrupt("leaf lies past the end of the disk").at(extent.offset)
                    );
                }
                leaves.push((number, parse(text)?));
            }
        }
        let flat = self.flat_sha256.as_deref().map(parse).transpose()?;
        let tree = Tree::new(self.algorithm, self.size, leaves, flat);
        let twice = tree.leaves.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let root = hex(&tree.root);
        if twice || root != self.root {
            return Err(Error::corrupt("leaves do not add up to the root")
                .mismatch(&self.root, root)
                .hint("the file of checksums was changed or damaged"));
        }
        Ok(tree)
    }
}

/// A digest from its 64 hexadecimal digits.
fn parse(text: &str) -> Result<Digest> {
    let nibble = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let mut digest = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let whole = pairs.len() == digest.len() && rest.is_empty();
    for (place, [high, low]) in digest.iter_mut().zip(pairs) {
        let byte = nibble(*high).zip(nibble(*low)).filter(|_| whole);
        let (high, low) = byte.ok_or_else(|| {
            Error::corrupt("digest is malformed").mismatch("64 hexadecimal digits", text)
        })?;
        *place = high << 4 | low;
    }
    if whole {
        Ok(digest)
    } else {
        Err(Error::corrupt("digest is malformed").mismatch("64 hexadecimal digits", text))
    }
}
