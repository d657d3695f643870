//! `Kdf`: from a secret to a keyslot's key, within stated limits.
//!
//! PBKDF2: RFC 8018. Argon2: RFC 9106, version 0x13. The costs come from the header, so a hostile
//! one could ask for hours or for all memory: [`Limits`] says no first.

use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use rehost_block::{Error, Result};
use zeroize::Zeroizing;

use crate::hash::Hash;

/// What a key derivation may cost at most. The defaults are well above what cryptsetup chooses on
/// fast machines (it never takes more than 4 GiB for Argon2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory for Argon2, in bytes.
    pub argon2_memory: u64,
    /// Memory times passes for Argon2, in bytes: what is filled altogether.
    pub argon2_filled: u64,
    /// Iterations of PBKDF2.
    pub pbkdf2_iterations: u32,
}

impl Default for Limits {
    /// 4 GiB, 256 GiB, and 100 million iterations: minutes at most.
    fn default() -> Self {
        Self {
            argon2_memory: 4 << 30,
            argon2_filled: 256 << 30,
            pbkdf2_iterations: 100_000_000,
        }
    }
}

impl Limits {
    /// Refuses more iterations of PBKDF2 than allowed.
    pub(crate) fn check_iterations(&self, iterations: NonZeroU32) -> Result<()> {
        check(
            "PBKDF2 iterations",
            iterations.get().into(),
            self.pbkdf2_iterations.into(),
        )
    }
}

fn check(what: &'static str, asked: u64, limit: u64) -> Result<()> {
    if asked <= limit {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "asks for {asked} {what}, and the limit is {limit}"
    )))
}

/// A key derivation function with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kdf {
    Pbkdf2 {
        hash: Hash,
        salt: Vec<u8>,
        iterations: NonZeroU32,
    },
    Argon2 {
        variant: Algorithm,
        salt: Vec<u8>,
        /// Passes.
        time: u32,
        /// In KiB.
        memory: u32,
        /// Lanes.
        cpus: u32,
    },
}

impl Kdf {
    /// The key of `len` bytes that `secret` gives.
    ///
    /// # Errors
    /// Unsupported when that costs more than `limits`; Corrupt when the parameters contradict the
    /// algorithm's rules.
    pub(crate) fn derive(
        &self,
        secret: &[u8],
        len: usize,
        limits: &Limits,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut key = Zeroizing::new(vec![0; len]);
        match self {
            Self::Pbkdf2 {
                hash,
                salt,
                iterations,
            } => {
                limits.check_iterations(*iterations)?;
                hash.pbkdf2(secret, salt, *iterations, &mut key);
            }
            Self::Argon2 {
                variant,
                salt,
                time,
                memory,
                cpus,
            } => {
                let bytes = u64::from(*memory).saturating_mul(1024);
                check("bytes of memory for Argon2", bytes, limits.argon2_memory)?;
                let filled = bytes.saturating_mul((*time).into());
                check("bytes for Argon2 to fill", filled, limits.argon2_filled)?;
                let parameters = Params::new(*memory, *time, *cpus, Some(len)).map_err(refused)?;
                Argon2::new(*variant, Version::V0x13, parameters)
                    .hash_password_into(secret, salt, &mut key)
                    .map_err(refused)?;
            }
        }
        Ok(key)
    }
}

fn refused(error: argon2::Error) -> Error {
    match error {
        argon2::Error::OutOfMemory => Error::unsupported("not enough memory for Argon2"),
        error => Error::corrupt("parameters of Argon2 break its rules").because(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::Kind;

    #[test]
    fn absurd_costs_are_refused_by_name_before_they_are_paid() {
        let limits = Limits::default();
        let pbkdf2 = Kdf::Pbkdf2 {
            hash: Hash::Sha256,
            salt: vec![0; 32],
            iterations: NonZeroU32::MAX,
        };
        let argon2 = |time, memory, cpus| Kdf::Argon2 {
            variant: Algorithm::Argon2id,
            salt: vec![0; 32],
            time,
            memory,
            cpus,
        };
        for (kdf, kind, word) in [
            (pbkdf2, Kind::Unsupported, "PBKDF2 iterations"),
            (argon2(1, u32::MAX, 1), Kind::Unsupported, "memory"),
            (argon2(u32::MAX, 1 << 20, 1), Kind::Unsupported, "fill"),
            (argon2(1, 4, 4), Kind::Corrupt, "rules"),
            (argon2(0, 64, 1), Kind::Corrupt, "rules"),
            (argon2(1, 64, 0), Kind::Corrupt, "rules"),
        ] {
            let error = kdf.derive(b"secret", 64, &limits).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
