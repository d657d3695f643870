//! `Header::unlock`: tries the keyslots with a secret until one gives the volume key.

use std::fmt::{self, Write};

use rehost_block::{Error, Kind, Result, Storage};
use zeroize::Zeroizing;

use crate::header::{Header, Keyslot};
use crate::kdf::Limits;
use crate::keyslot::Access;
use crate::secret::Secret;

/// The key that the data is encrypted with, wiped from memory when it is dropped.
#[derive(Clone)]
pub struct VolumeKey {
    bytes: Zeroizing<Vec<u8>>,
    keyslot: u32,
}

impl VolumeKey {
    /// The keyslot that gave it.
    #[must_use]
    pub const fn keyslot(&self) -> u32 {
        self.keyslot
    }

    /// The key itself. It opens the volume for good, whatever becomes of the passphrases.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeKey")
            .field("keyslot", &self.keyslot)
            .finish_non_exhaustive()
    }
}

impl Header {
    /// Finds the volume key: tries every keyslot that `secret` could open, in the header's order of
    /// priority. `storage` is the one that the header was parsed from.
    ///
    /// # Errors
    /// Usage when no keyslot opens with this secret (the message says which were tried and which
    /// could not be, and why); Unsupported or Corrupt when none could even be tried, or when the
    /// volume cannot be used with any key.
    pub fn unlock(
        &self,
        storage: &dyn Storage,
        secret: &Secret,
        limits: &Limits,
    ) -> Result<VolumeKey> {
        self.find(storage, secret, limits)
            .map_err(|error| error.in_file(storage.name()))
    }

    fn find(&self, storage: &dyn Storage, secret: &Secret, limits: &Limits) -> Result<VolumeKey> {
        self.check_usable()?;
        let mut keyslots: Vec<&Keyslot> = self.keyslots.iter().collect();
        keyslots.sort_by_key(|keyslot| keyslot.priority);
        let mut tried = Vec::new();
        let mut passed_over = Vec::new();
        for keyslot in keyslots {
            let number = keyslot.number;
            let opened = match &keyslot.access {
                Access::Secret(lock) => lock.open(storage, &self.digests, secret.expose(), limits),
                Access::Unsupported(why) => Err(Error::unsupported(why)),
            };
            match opened {
                Ok(Some(bytes)) => {
                    return Ok(VolumeKey {
                        bytes,
                        keyslot: number,
                    });
                }
                Ok(None) => tried.push(number),
                // A keyslot that is damaged or not known here leaves the others usable.
                Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Corrupt) => {
                    passed_over.push((number, error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(self.locked(&tried, &passed_over))
    }

    fn locked(&self, tried: &[u32], passed_over: &[(u32, Error)]) -> Error {
        let kind = match passed_over.first() {
            _ if !tried.is_empty() => Kind::Usage,
            Some((_, error)) => error.kind(),
            // No keyslot at all: the volume was erased.
            None => Kind::Unsupported,
        };
        let mut what = String::from("no keyslot opens with this key");
        let mut separator = ": ";
        if tried.is_empty() && passed_over.is_empty() {
            what.push_str(": none is in use (the volume was erased)");
        }
        for number in tried {
            let _ = write!(what, "{separator}{}", Named(self, *number, "tried"));
            separator = ", ";
        }
        for (number, error) in passed_over {
            let _ = write!(what, "{separator}{}", Named(self, *number, error));
            separator = ", ";
        }
        Error::new(kind, what).in_structure(self.structure())
    }
}

/// A keyslot by number, what is bound to it, and what became of it.
struct Named<'a, T>(&'a Header, u32, T);

impl<T: fmt::Display> fmt::Display for Named<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(header, number, outcome) = self;
        write!(f, "keyslot {number} ")?;
        for token in &header.tokens {
            if token.keyslots.contains(number) {
                write!(f, "(of token {:?}) ", token.kind)?;
            }
        }
        write!(f, "{outcome}")
    }
}
