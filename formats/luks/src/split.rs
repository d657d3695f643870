//! `Split`: the anti-forensic splitter that spreads a key over many sectors (TKS1).
//!
//! LUKS1 specification, section 2.4, "Anti-forensic information splitter". Only merging is needed to
//! open a volume.

use std::num::NonZeroU32;

use zeroize::Zeroizing;

use crate::hash::Hash;

/// How a key is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// The diffuser's hash.
    pub(crate) hash: Hash,
    /// Into how many pieces of the key's length.
    pub(crate) stripes: NonZeroU32,
}

impl Split {
    /// Length in bytes of a spread key of `key` bytes; nothing where that does not fit.
    pub(crate) fn len(self, key: usize) -> Option<usize> {
        key.checked_mul(usize::try_from(self.stripes.get()).ok()?)
    }

    /// The key of `len` bytes that `material` holds, which is at least [`Split::len`] bytes long.
    pub(crate) fn merge(self, material: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(vec![0; len]);
        let stripes = usize::try_from(self.stripes.get()).unwrap_or(usize::MAX);
        for (number, stripe) in material.chunks_exact(len.max(1)).take(stripes).enumerate() {
            if number > 0 {
                key = self.diffused(&key);
            }
            for (byte, other) in key.iter_mut().zip(stripe) {
                *byte ^= other;
            }
        }
        key
    }

    /// Each piece as long as a digest is replaced by the hash of its number and itself; the last
    /// one's digest is cut.
    fn diffused(self, key: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut diffused = Zeroizing::new(Vec::with_capacity(key.len()));
        for (number, piece) in (0u32..).zip(key.chunks(self.hash.len())) {
            let digest = self.hash.digest(&[&number.to_be_bytes(), piece]);
            diffused.extend(digest.iter().take(piece.len()));
        }
        diffused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stripe_is_the_key_itself() {
        let split = Split {
            hash: Hash::Sha256,
            stripes: NonZeroU32::MIN,
        };
        assert_eq!(*split.merge(b"0123456789abcdef", 16), b"0123456789abcdef");
    }

    #[test]
    fn any_changed_bit_of_any_stripe_changes_the_key() {
        let split = Split {
            hash: Hash::Sha1,
            stripes: NonZeroU32::new(50).unwrap(),
        };
        let mut material: Vec<u8> = (0..50 * 32u32).map(|i| (i % 251) as u8).collect();
        let key = split.merge(&material, 32);
        for at in (0..material.len()).step_by(37) {
            material[at] ^= 1;
            assert_ne!(*split.merge(&material, 32), *key, "byte {at}");
            material[at] ^= 1;
        }
    }
}
