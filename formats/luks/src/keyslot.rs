//! A keyslot's way to the volume key, and the digest that tells whether it is the right one.

use std::num::NonZeroU32;

use rehost_block::{Error, Result, Storage, round_up};
use zeroize::Zeroizing;

use crate::cipher::{CipherSpec, IV_UNIT, SectorCipher, SectorSize};
use crate::hash::Hash;
use crate::header::Keyslot;
use crate::kdf::{Kdf, Limits};
use crate::split::Split;

/// Longest volume key, in bytes: cryptsetup's own limit.
pub(crate) const MAX_KEY: u32 = 512;

/// Most stripes a key is spread over: what both specifications fix.
pub(crate) const MAX_STRIPES: u32 = 4000;

/// In which order keyslots are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    Prefer,
    Normal,
    /// Not tried by cryptsetup unless it is named; here it comes last.
    Ignore,
}

/// Whether a secret can open a keyslot at all.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    Secret(Box<Lock>),
    /// Why not.
    Unsupported(String),
}

/// All that is needed to get a key out of a keyslot.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    pub(crate) kdf: Kdf,
    pub(crate) split: Split,
    /// Where the spread key is, in bytes.
    pub(crate) offset: u64,
    /// How the spread key is encrypted, not yet looked at.
    pub(crate) encryption: String,
    /// Length in bytes of the key that the secret gives, with which the area is encrypted.
    pub(crate) area_key: u32,
    /// Length of the volume key in bytes.
    pub(crate) key: u32,
    /// The digest to check the key with: its place in the header's list.
    pub(crate) digest: usize,
}

/// PBKDF2 of a volume key.
#[derive(Debug, Clone)]
pub(crate) struct Digest {
    pub(crate) hash: Hash,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: NonZeroU32,
    pub(crate) expected: Vec<u8>,
}

impl Digest {
    /// Whether `key` is the volume key.
    fn accepts(&self, key: &[u8], limits: &Limits) -> Result<bool> {
        limits.check_iterations(self.iterations)?;
        let mut digest = vec![0; self.expected.len()];
        self.hash
            .pbkdf2(key, &self.salt, self.iterations, &mut digest);
        Ok(!digest.is_empty() && digest == self.expected)
    }
}

impl Keyslot {
    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Why no passphrase or key file opens it, where that is so.
    #[must_use]
    pub fn unsupported(&self) -> Option<&str> {
        match &self.access {
            Access::Secret(_) => None,
            Access::Unsupported(why) => Some(why),
        }
    }
}

impl Lock {
    /// The volume key; nothing when `secret` does not open this keyslot.
    ///
    /// # Errors
    /// Unsupported when a parameter is not known here or costs more than `limits`; Corrupt when
    /// parameters contradict each other or the container ends before the key does.
    pub(crate) fn open(
        &self,
        storage: &dyn Storage,
        digests: &[Digest],
        secret: &[u8],
        limits: &Limits,
    ) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let digest = digests
            .get(self.digest)
            .ok_or_else(|| Error::internal("a keyslot without its digest"))?;
        limits.check_iterations(digest.iterations)?;
        let spec: CipherSpec = self.encryption.parse()?;
        let key_len = length(self.key)?;
        let mut material = Zeroizing::new(vec![0; self.area_len()?]);
        storage.read_at(&mut material, self.offset)?;
        let derived = self.kdf.derive(secret, length(self.area_key)?, limits)?;
        SectorCipher::new(&spec, &derived, SectorSize::SMALL)?.decrypt(&mut material, 0)?;
        let key = self.split.merge(&material, key_len);
        Ok(digest.accepts(&key, limits)?.then_some(key))
    }

    /// Bytes of whole sectors that the spread key takes.
    fn area_len(&self) -> Result<usize> {
        let unit = length(IV_UNIT)?;
        self.split
            .len(length(self.key)?)
            .and_then(|len| len.checked_next_multiple_of(unit))
            .ok_or_else(|| Error::internal("a spread key of unchecked length"))
    }
}

fn length<T>(len: T) -> Result<usize>
where
    usize: TryFrom<T>,
{
    usize::try_from(len).map_err(|_| Error::unsupported("length exceeds this machine's memory"))
}

/// Length in bytes of whole sectors that a key of `key` bytes takes when it is spread.
pub(crate) fn spread_len(key: u32, stripes: NonZeroU32) -> u64 {
    round_up(u64::from(key).saturating_mul(stripes.get().into()), IV_UNIT)
}
