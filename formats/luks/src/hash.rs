//! `Hash`: the hash functions that headers name, and PBKDF2 over them.

use std::num::NonZeroU32;

use pbkdf2::hmac::digest::Digest;
use pbkdf2::pbkdf2_hmac;
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// A hash function, by the name that headers use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

/// Runs `$body` with `$Hash` standing for the type of `$self`.
macro_rules! with_type {
    ($self:expr, $Hash:ident => $body:expr) => {
        match $self {
            Self::Sha1 => {
                type $Hash = Sha1;
                $body
            }
            Self::Sha224 => {
                type $Hash = Sha224;
                $body
            }
            Self::Sha256 => {
                type $Hash = Sha256;
                $body
            }
            Self::Sha384 => {
                type $Hash = Sha384;
                $body
            }
            Self::Sha512 => {
                type $Hash = Sha512;
                $body
            }
            Self::Ripemd160 => {
                type $Hash = Ripemd160;
                $body
            }
        }
    };
}

impl Hash {
    /// The hash called `name` in a header; nothing for one that is not known here.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "ripemd160" => Self::Ripemd160,
            _ => return None,
        })
    }

    /// Length of its digests in bytes.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sha1 | Self::Ripemd160 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `parts`, one after the other.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        with_type!(self, H => {
            let mut hash = H::new();
            for part in parts {
                hash.update(part);
            }
            Zeroizing::new(hash.finalize().to_vec())
        })
    }

    /// PBKDF2 with HMAC over this hash (RFC 8018), to fill `key`.
    pub(crate) fn pbkdf2(self, secret: &[u8], salt: &[u8], rounds: NonZeroU32, key: &mut [u8]) {
        with_type!(self, H => pbkdf2_hmac::<H>(secret, salt, rounds.get(), key));
    }
}
