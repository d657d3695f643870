//! The four checksums that a Btrfs can use, and its hashes of names.
//!
//! Source: btrfs.readthedocs.io, "Checksumming"; Linux `fs/btrfs/{fs,ctree}.h`. A stored checksum is the
//! digest's bytes in order; integers are little endian.

use blake2::Blake2b256;
use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

/// Room for a checksum in blocks of metadata.
pub(super) const FIELD: usize = 32;

/// A checksum's algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By its number in the superblock.
    pub(super) const fn numbered(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Crc32c,
            1 => Self::Xxhash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            _ => return None,
        })
    }

    /// Bytes of a checksum.
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// The checksum of `bytes`, with zeroes after it.
    pub(super) fn of(self, bytes: &[u8]) -> [u8; FIELD] {
        let mut sum = [0; FIELD];
        let mut put = |digest: &[u8]| {
            for (place, byte) in sum.iter_mut().zip(digest) {
                *place = *byte;
            }
        };
        match self {
            Self::Crc32c => put(&crc32c::crc32c(bytes).to_le_bytes()),
            Self::Xxhash64 => put(&XxHash64::oneshot(0, bytes).to_le_bytes()),
            Self::Sha256 => put(&Sha256::digest(bytes)),
            Self::Blake2b => put(&Blake2b256::digest(bytes)),
        }
        sum
    }

    /// Whether `stored` begins with the checksum of `bytes`.
    pub(super) fn matches(self, bytes: &[u8], stored: &[u8]) -> bool {
        let sum = self.of(bytes);
        let len = self.len();
        stored.get(..len) == sum.get(..len)
    }
}

/// CRC-32C as the kernel's `crc32c(seed, …)`: without the inversions before and after.
fn raw_crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The offset of a name's `DIR_ITEM` or `XATTR_ITEM`.
pub(super) fn name_hash(name: &[u8]) -> u64 {
    u64::from(raw_crc32c(!1, name))
}

/// The offset of the `INODE_EXTREF` of a name in directory `dir`.
pub(super) fn extref_hash(dir: u64, name: &[u8]) -> u64 {
    let (seed, _) = crate::number::halves(dir);
    u64::from(raw_crc32c(seed, name))
}

/// A checksum for a message.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_in_an_image_of_mkfs() {
        // `default`, the one name in every tree of roots: DIR_ITEM 2378154706.
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }

    #[test]
    fn each_algorithm_gives_its_published_value() {
        // RFC 3720 B.4 (of 32 zeroes), the xxHash specification (seed 0, nothing), FIPS 180-4 (`abc`).
        assert_eq!(
            Checksum::Crc32c.of(&[0; 32])[..4],
            0x8a91_36aa_u32.to_le_bytes()
        );
        assert_eq!(
            Checksum::Xxhash64.of(b"")[..8],
            0xef46_db37_51d8_e999_u64.to_le_bytes()
        );
        assert_eq!(Checksum::Sha256.of(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(Checksum::Blake2b.of(b"")[..4], [0x0e, 0x57, 0x51, 0xc0]);
    }
}
