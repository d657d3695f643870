//! `SectorCipher`: encrypts and decrypts sectors in place, given where they are.
//!
//! Cipher names are dm-crypt's, `cipher-mode-ivmode[:ivopts]`
//! (`Documentation/admin-guide/device-mapper/dm-crypt.rst`). The initialisation vector of a sector
//! comes from its number, always counted in units of 512 bytes, also where sectors are larger: LUKS2
//! never asks for `iv_large_sectors`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aes::cipher::KeyInit;
use aes::{Aes128, Aes192, Aes256};
use rehost_block::{Codec, Error, Result};
use serpent::Serpent;
use twofish::Twofish;

use crate::hash::Hash;
use crate::modes::{Block, Cbc, Cipher, Mode, OneBlock, Xts};

/// Bytes for which an initialisation vector's counter moves by one.
pub(crate) const IV_UNIT: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Aes,
    Serpent,
    Twofish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chaining {
    Xts,
    Cbc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Iv {
    /// The low 32 bits of the sector number, little endian.
    Plain,
    /// All 64 bits, little endian.
    Plain64,
    /// All 64 bits, big endian, at the vector's end.
    Plain64Be,
    /// `Plain64` encrypted with the hash of the key.
    Essiv(Hash),
}

/// Which cipher, in which mode, with which initialisation vectors: `aes-xts-plain64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSpec {
    algorithm: Algorithm,
    chaining: Chaining,
    iv: Iv,
}

impl FromStr for CipherSpec {
    type Err = Error;

    /// # Errors
    /// Unsupported, and names the part that is not known here.
    fn from_str(text: &str) -> Result<Self> {
        let unknown = |what: &str, name: &str| {
            Error::unsupported(format!(
                "{what} {name:?} of cipher {text:?} is not supported"
            ))
        };
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().unwrap_or_default();
        let (algorithm, chaining, iv) = (next(), next(), next());
        Ok(Self {
            algorithm: match algorithm {
                "aes" => Algorithm::Aes,
                "serpent" => Algorithm::Serpent,
                "twofish" => Algorithm::Twofish,
                name => return Err(unknown("algorithm", name)),
            },
            chaining: match chaining {
                "xts" => Chaining::Xts,
                "cbc" => Chaining::Cbc,
                name => return Err(unknown("mode", name)),
            },
            iv: match iv.split_once(':') {
                None if iv == "plain" => Iv::Plain,
                None if iv == "plain64" => Iv::Plain64,
                None if iv == "plain64be" => Iv::Plain64Be,
                Some(("essiv", hash)) => Iv::Essiv(
                    Hash::named(hash).ok_or_else(|| unknown("hash of the iv generator", hash))?,
                ),
                _ => return Err(unknown("iv generator", iv)),
            },
        })
    }
}

/// How many bytes are encrypted as one: 512, 1024, 2048 or 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorSize(u16);

impl SectorSize {
    /// 512 bytes: all that LUKS1 and qcow2 know.
    pub const SMALL: Self = Self(512);

    /// `bytes`, where that is a size that dm-crypt knows.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self(512)),
            1024 => Some(Self(1024)),
            2048 => Some(Self(2048)),
            4096 => Some(Self(4096)),
            _ => None,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// How far into its sector byte `at` is.
    pub(crate) fn within(self, at: u64) -> u64 {
        // Every size is a power of two.
        at & u64::from(self.0).saturating_sub(1)
    }
}

/// A cipher with its key, ready for any sector. Many threads may use it at once.
pub struct SectorCipher {
    spec: CipherSpec,
    sector: SectorSize,
    mode: Box<dyn Mode>,
    /// For [`Iv::Essiv`].
    vectors: Option<Box<dyn OneBlock>>,
}

impl SectorCipher {
    /// The cipher of `spec` with `key`, for sectors of `sector` bytes.
    ///
    /// # Errors
    /// Unsupported when the cipher has no keys of that length.
    pub fn new(spec: &CipherSpec, key: &[u8], sector: SectorSize) -> Result<Self> {
        let unfit = || {
            Error::unsupported(format!(
                "a key of {} bits does not fit the cipher",
                key.len().saturating_mul(8)
            ))
        };
        let mode = with_cipher(spec.algorithm, ModeFrom(spec.chaining, key)).ok_or_else(unfit)?;
        let vectors = match spec.iv {
            Iv::Plain | Iv::Plain64 | Iv::Plain64Be => None,
            Iv::Essiv(hash) => {
                let salt = hash.digest(&[key]);
                let cipher = with_cipher(spec.algorithm, OneBlockFrom(&salt)).ok_or_else(|| {
                    Error::unsupported("the iv generator's hash does not give a key of the cipher")
                })?;
                Some(cipher)
            }
        };
        Ok(Self {
            spec: *spec,
            sector,
            mode,
            vectors,
        })
    }

    /// How many bytes are encrypted as one.
    #[must_use]
    pub const fn sector_size(&self) -> SectorSize {
        self.sector
    }

    /// Encrypts whole sectors in place. `first` is where they begin, in units of 512 bytes.
    ///
    /// # Errors
    /// Internal when `bytes` is not a whole number of sectors.
    pub fn encrypt(&self, bytes: &mut [u8], first: u64) -> Result<()> {
        self.each(bytes, first, |sector, iv| self.mode.encrypt(sector, iv))
    }

    /// Decrypts whole sectors in place. `first` is where they begin, in units of 512 bytes.
    ///
    /// # Errors
    /// As [`SectorCipher::encrypt`].
    pub fn decrypt(&self, bytes: &mut [u8], first: u64) -> Result<()> {
        self.each(bytes, first, |sector, iv| self.mode.decrypt(sector, iv))
    }

    fn each(&self, bytes: &mut [u8], first: u64, run: impl Fn(&mut [u8], Block)) -> Result<()> {
        let size = usize::from(self.sector.get());
        let step = u64::from(self.sector.get()) / IV_UNIT;
        let mut number = first;
        let mut sectors = bytes.chunks_exact_mut(size);
        for sector in &mut sectors {
            run(sector, self.vector(number));
            number = number.wrapping_add(step);
        }
        if sectors.into_remainder().is_empty() {
            return Ok(());
        }
        Err(Error::internal("asked for a part of an encrypted sector"))
    }

    fn vector(&self, number: u64) -> Block {
        let number = u128::from(number);
        match (self.spec.iv, &self.vectors) {
            (Iv::Plain, _) => Block::from((number & 0xffff_ffff).to_le_bytes()),
            (Iv::Plain64Be, _) => Block::from(number.to_be_bytes()),
            (_, Some(cipher)) => cipher.encrypt(Block::from(number.to_le_bytes())),
            (_, None) => Block::from(number.to_le_bytes()),
        }
    }
}

impl fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectorCipher")
            .field("spec", &self.spec)
            .field("sector", &self.sector)
            .finish_non_exhaustive()
    }
}

/// What is made of a cipher once its type is known.
trait Make {
    type Out;

    /// The key of which a cipher is to be made, or the first of two.
    fn key_len(&self) -> usize;

    /// Nothing where a key does not fit.
    fn make<C: Cipher + KeyInit + 'static>(self) -> Option<Self::Out>;
}

struct ModeFrom<'a>(Chaining, &'a [u8]);

impl Make for ModeFrom<'_> {
    type Out = Box<dyn Mode>;

    fn key_len(&self) -> usize {
        match self.0 {
            Chaining::Xts => self.1.len() / 2,
            Chaining::Cbc => self.1.len(),
        }
    }

    fn make<C: Cipher + KeyInit + 'static>(self) -> Option<Self::Out> {
        let (first, second) = self.1.split_at_checked(self.key_len())?;
        let first = C::new_from_slice(first).ok()?;
        Some(match self.0 {
            Chaining::Xts => Box::new(Xts {
                sectors: first,
                tweaks: C::new_from_slice(second).ok()?,
            }),
            Chaining::Cbc => Box::new(Cbc(first)),
        })
    }
}

struct OneBlockFrom<'a>(&'a [u8]);

impl Make for OneBlockFrom<'_> {
    type Out = Box<dyn OneBlock>;

    fn key_len(&self) -> usize {
        self.0.len()
    }

    fn make<C: Cipher + KeyInit + 'static>(self) -> Option<Self::Out> {
        Some(Box::new(C::new_from_slice(self.0).ok()?))
    }
}

fn with_cipher<M: Make>(algorithm: Algorithm, make: M) -> Option<M::Out> {
    match (algorithm, make.key_len()) {
        (Algorithm::Aes, 16) => make.make::<Aes128>(),
        (Algorithm::Aes, 24) => make.make::<Aes192>(),
        (Algorithm::Aes, 32) => make.make::<Aes256>(),
        (Algorithm::Serpent, 16 | 24 | 32) => make.make::<Serpent>(),
        (Algorithm::Twofish, 16 | 24 | 32) => make.make::<Twofish>(),
        _ => None,
    }
}

/// The codec of a run of encrypted sectors: what decrypts them where they are read.
#[derive(Debug, Clone)]
pub struct EncryptedSectors {
    cipher: Arc<SectorCipher>,
    first: u64,
}

impl EncryptedSectors {
    /// Sectors encrypted with `cipher` that begin at `first`, in units of 512 bytes as
    /// [`SectorCipher::decrypt`] counts.
    #[must_use]
    pub const fn new(cipher: Arc<SectorCipher>, first: u64) -> Self {
        Self { cipher, first }
    }
}

impl Codec for EncryptedSectors {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn decode(&self, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let sectors = packed
            .get(..plain.len())
            .ok_or_else(|| Error::corrupt("encrypted sectors end early"))?;
        plain.copy_from_slice(sectors);
        self.cipher.decrypt(plain, self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::Kind;
    use sha2::{Digest, Sha256};

    fn key() -> Vec<u8> {
        (0..64u32).map(|i| (i * 7 + 3) as u8).collect()
    }

    fn plain() -> Vec<u8> {
        (0..8192u32).map(|i| (i * 31 + i / 256) as u8).collect()
    }

    fn cipher(spec: &str, key: usize, sector: u32) -> SectorCipher {
        let spec = spec.parse().unwrap();
        let sector = SectorSize::new(sector).unwrap();
        SectorCipher::new(&spec, &self::key()[..key], sector).unwrap()
    }

    /// SHA-256 of what OpenSSL 3 (through Python's `cryptography`) encrypts the same bytes to, with
    /// the vectors made there by dm-crypt's rules.
    #[test]
    fn sectors_are_encrypted_as_openssl_does() {
        let cases = [
            (
                // Sectors 24 and 32: large sectors, counted in units of 512 bytes.
                cipher("aes-xts-plain64", 64, 4096),
                24,
                "8253c216cb2acf85c9125f9120b09254b80c6e6d740bd5ec5bb97411278b620d",
            ),
            (
                cipher("aes-cbc-essiv:sha256", 32, 512),
                0x1_2345_6789,
                "327c74598b48e10ae7a3deca6febf148b221762bc4185db88afa47d89422e5be",
            ),
            (
                // Past 32 bits: the counter of `plain` begins anew.
                cipher("aes-cbc-plain", 16, 512),
                0xffff_fff8,
                "0fb04814757e41ae701bf77d6fa17842da3c68b5e43eb2ce3e5ec2544cd96e79",
            ),
            (
                cipher("aes-xts-plain64be", 32, 512),
                0x1_2345_6789,
                "8ad8ba55e940f40dbdef653bf93f29662bd2cfd3776aa347ca21d6253d166f08",
            ),
            (
                cipher("aes-cbc-plain64", 24, 512),
                5,
                "e4bda220e5507c5cb05941263bb8327ecfb866b8bb5019abbaf60125e4546af4",
            ),
        ];
        for (cipher, first, expected) in cases {
            let mut bytes = plain();
            cipher.encrypt(&mut bytes, first).unwrap();
            let digest = Sha256::digest(&bytes);
            let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected, "{cipher:?}");
            // Decrypted in two parts, as a codec may be asked to.
            let (front, back) = bytes.split_at_mut(4096);
            cipher.decrypt(back, first + 8).unwrap();
            cipher.decrypt(front, first).unwrap();
            assert!(bytes == plain(), "{cipher:?}");
        }
    }

    /// IEEE 1619-2007, annex B, vector 2: two blocks of 0x44 in data unit 0x3333333333.
    #[test]
    fn xts_agrees_with_its_standard() {
        let key = [[0x11; 16], [0x22; 16]].concat();
        let spec = "aes-xts-plain64".parse().unwrap();
        let cipher = SectorCipher::new(&spec, &key, SectorSize::SMALL).unwrap();
        let mut sector = [0x44; 512];
        cipher.encrypt(&mut sector, 0x33_3333_3333).unwrap();
        let expected = [
            0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e, 0x39, 0x33, 0x40, 0x38, 0xac, 0xef,
            0x83, 0x8b, 0xfb, 0x18, 0x6f, 0xff, 0x74, 0x80, 0xad, 0xc4, 0x28, 0x93, 0x82, 0xec,
            0xd6, 0xd3, 0x94, 0xf0,
        ];
        assert_eq!(sector[..32], expected);
    }

    #[test]
    fn a_part_of_a_sector_is_refused() {
        let error = cipher("aes-xts-plain64", 64, 4096)
            .decrypt(&mut [0; 4096 + 512], 0)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
    }

    #[test]
    fn neither_a_cipher_nor_its_errors_show_the_key() {
        let spec: CipherSpec = "aes-xts-plain64".parse().unwrap();
        let error = SectorCipher::new(&spec, b"hunter2", SectorSize::SMALL).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let shown = format!("{:?}", cipher("aes-xts-plain64", 64, 512));
        assert!(shown.contains("Xts"), "{shown}");
        assert!(!shown.contains("mode:"), "{shown}");
    }
}
