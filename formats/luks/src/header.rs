//! `Header`: what a LUKS header says, of either version.

use std::fmt;

use rehost_block::{Error, Result, Storage};

use crate::cipher::{CipherSpec, SectorCipher, SectorSize};
use crate::keyslot::{Access, Digest, Priority};
use crate::unlock::VolumeKey;
use crate::{luks1, luks2};

/// `LUKS\xba\xbe`, what a volume begins with.
pub(crate) const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

/// Which format of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// LUKS1: a fixed structure with eight keyslots.
    Luks1,
    /// LUKS2: two binary headers, each with metadata as JSON.
    Luks2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Luks1 => "LUKS1",
            Self::Luks2 => "LUKS2",
        })
    }
}

/// A parsed header. Knows no key.
#[derive(Debug, Clone)]
pub struct Header {
    pub(crate) version: Version,
    pub(crate) uuid: String,
    pub(crate) label: Option<String>,
    /// Where the copy that is used begins, in bytes.
    pub(crate) place: u64,
    pub(crate) keyslots: Vec<Keyslot>,
    pub(crate) digests: Vec<Digest>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) tokens: Vec<Token>,
    /// LUKS2's `requirements`: what an implementation must know to use the volume at all.
    pub(crate) requirements: Vec<String>,
}

/// A place for one way to the volume key.
#[derive(Debug, Clone)]
pub struct Keyslot {
    pub(crate) number: u32,
    pub(crate) priority: Priority,
    pub(crate) access: Access,
}

/// What a header says about how else a keyslot can be opened (a TPM, a FIDO2 stick, Clevis).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its type, such as `systemd-tpm2`.
    pub kind: String,
    /// The keyslots that it opens.
    pub keyslots: Vec<u32>,
}

/// A part of the plain disk and where its sectors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// What the header calls it; only `crypt` can be used.
    pub(crate) kind: String,
    /// Set where sectors carry integrity tags: the algorithm.
    pub(crate) integrity: Option<String>,
    /// Byte offset in the container; 0 where the sectors are in another file.
    pub(crate) offset: u64,
    /// In bytes; nothing where it reaches to the container's end.
    pub(crate) len: Option<u64>,
    /// Number of the first sector for its initialisation vector, in units of 512 bytes.
    pub(crate) iv_tweak: u64,
    /// Cipher, mode and iv generator, not yet looked at.
    pub(crate) encryption: String,
    pub(crate) sector: SectorSize,
}

/// Tells by its first bytes whether `storage` is a LUKS volume.
///
/// # Errors
/// Io when it cannot be read.
pub fn detect(storage: &dyn Storage) -> Result<Option<Version>> {
    let mut bytes = [0; 8];
    if storage.size() < 8 {
        return Ok(None);
    }
    storage.read_at(&mut bytes, 0)?;
    Ok(match bytes.split_at(6) {
        (magic, [0, 1]) if magic == MAGIC => Some(Version::Luks1),
        (magic, [0, 2]) if magic == MAGIC => Some(Version::Luks2),
        _ => None,
    })
}

/// Reads the header of the volume in `storage`. Of LUKS2's two copies the newer valid one is taken,
/// also where the first one is damaged or gone.
///
/// What cannot be used (a cipher, a keyslot, a volume in reencryption) is no error here; it is
/// where it would be used.
///
/// # Errors
/// Corrupt when there is no header or it contradicts its format; Unsupported when it is of another
/// version; Io when it cannot be read.
pub fn parse(storage: &dyn Storage) -> Result<Header> {
    read(storage).map_err(|error| error.in_file(storage.name()))
}

fn read(storage: &dyn Storage) -> Result<Header> {
    let mut first = [0; 8];
    if storage.size() >= 8 {
        storage.read_at(&mut first, 0)?;
    }
    match first.split_at(6) {
        (magic, [0, 1]) if magic == MAGIC => luks1::parse(storage),
        (magic, [0, 2]) if magic == MAGIC => luks2::parse(storage),
        (magic, &[high, low]) if magic == MAGIC => {
            Err(Error::unsupported("LUKS of this version is not known")
                .in_structure("LUKS header")
                .at(6)
                .mismatch("1 or 2", u16::from_be_bytes([high, low])))
        }
        (b"LUKS\xde\xad", _) => Err(Error::unsupported(
            "volume is in the middle of a reencryption",
        )
        .in_structure("LUKS header")
        .at(0)
        .hint("finish it with cryptsetup-reencrypt")),
        _ => luks2::parse_second(storage)?.ok_or_else(|| {
            Error::corrupt("no LUKS header")
                .in_structure("LUKS header")
                .at(0)
                .mismatch(
                    format_args!("{:02x?}", MAGIC),
                    format_args!("{:02x?}", first.split_at(6).0),
                )
        }),
    }
}

impl Header {
    /// Which format it has.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The volume's UUID, as it is written.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The volume's label (LUKS2).
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Whether the first copy of the header was damaged or older, so that the second is used.
    #[must_use]
    pub const fn is_second_copy(&self) -> bool {
        self.place != 0
    }

    /// The keyslots that are in use.
    #[must_use]
    pub fn keyslots(&self) -> &[Keyslot] {
        &self.keyslots
    }

    /// The tokens; they are named and not used.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Cipher, mode and iv generator of the data, such as `aes-xts-plain64`.
    #[must_use]
    pub fn encryption(&self) -> Option<&str> {
        self.segments
            .first()
            .map(|segment| segment.encryption.as_str())
    }

    /// Bytes encrypted as one.
    #[must_use]
    pub fn sector_size(&self) -> Option<SectorSize> {
        self.segments.first().map(|segment| segment.sector)
    }

    /// The cipher of the data, for a format that knows by itself where the sectors are (qcow2, where
    /// a sector's number is its offset in the image file in units of 512 bytes).
    ///
    /// # Errors
    /// Unsupported when the cipher is not known here, when the volume cannot be used (see
    /// [`Header::unlock`]) or when its parts are encrypted differently.
    pub fn sector_cipher(&self, key: &VolumeKey) -> Result<SectorCipher> {
        self.check_usable()?;
        match self.segments.as_slice() {
            [segment] => self.cipher_of(segment, key),
            _ => Err(self.unusable("data is in more than one segment")),
        }
    }

    pub(crate) fn cipher_of(&self, segment: &Segment, key: &VolumeKey) -> Result<SectorCipher> {
        segment
            .encryption
            .parse::<CipherSpec>()
            .and_then(|spec| SectorCipher::new(&spec, key.expose(), segment.sector))
            .map_err(|error| error.in_structure(self.structure()).at(self.place))
    }

    /// Refuses by name what cannot be used whatever the key.
    pub(crate) fn check_usable(&self) -> Result<()> {
        if let Some(name) = self.requirements.first() {
            let hint = if name.contains("reencrypt") {
                "the volume is in the middle of a reencryption: finish it with cryptsetup reencrypt"
            } else {
                "only a newer implementation can use the volume"
            };
            return Err(self
                .unusable(format!("requirement {name:?} is not supported"))
                .hint(hint));
        }
        for segment in &self.segments {
            if segment.kind != "crypt" {
                let what = format!("segment of type {:?} is not supported", segment.kind);
                return Err(self.unusable(what));
            }
            if let Some(name) = &segment.integrity {
                let what =
                    format!("integrity tags ({name}, authenticated encryption) are not supported");
                return Err(self.unusable(what));
            }
        }
        Ok(())
    }

    pub(crate) fn unusable(&self, what: impl Into<String>) -> Error {
        Error::unsupported(what)
            .in_structure(self.structure())
            .at(self.place)
    }

    pub(crate) const fn structure(&self) -> &'static str {
        match self.version {
            Version::Luks1 => "LUKS1 header",
            Version::Luks2 => "LUKS2 metadata",
        }
    }
}
