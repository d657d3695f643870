//! The file type identifier and the two headers: which is current, and where the log is.
//!
//! \[MS-VHDX\] §2.2.1, §2.2.2. The current header is the valid one with the greater sequence number;
//! one damaged header is what a crash during its update leaves, and no error.

use rehost_block::{Error, Fields, Result, Storage, StorageMut};
use uuid::Uuid;

use super::{KIB64, MIB, checksum};

/// What the file begins with.
pub(super) const SIGNATURE: &[u8; 8] = b"vhdxfile";

/// Where the two headers are.
pub(super) const HEADERS: [u64; 2] = [KIB64, 2 * KIB64];

/// Length of a header, in bytes.
const HEADER_LEN: usize = 4096;

const STRUCTURE: &str = "header";

/// What the current header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) file_write: Uuid,
    /// Changes whenever the guest's bytes do: children know their parent by it.
    pub(super) data_write: Uuid,
    pub(super) log_offset: u64,
    pub(super) log_len: u64,
    /// The log's identity while it holds something; nil when it is empty.
    pub(super) log: Uuid,
}

impl Header {
    /// The current header of `storage`.
    ///
    /// # Errors
    /// Corrupt when the file is no VHDX or has no valid header; Unsupported for another version.
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let mut signature = [0; 8];
        storage.read_at(&mut signature, 0)?;
        if &signature != SIGNATURE {
            return Err(Error::corrupt("signature is missing")
                .in_structure("file type identifier")
                .at(0)
                .hint("the file is no VHDX, or one whose writing was never finished"));
        }
        let [first, second] = HEADERS;
        let (a, b) = (valid(storage, first)?, valid(storage, second)?);
        let (bytes, at) = match (&a, &b) {
            (Some(a), Some(b)) => {
                let (left, right) = (sequence(a, first)?, sequence(b, second)?);
                if left == right && a != b {
                    return Err(Error::corrupt("both headers have the same sequence number")
                        .in_structure(STRUCTURE)
                        .at(second.saturating_add(8))
                        .mismatch("two different ones", right));
                }
                if left >= right {
                    (a, first)
                } else {
                    (b, second)
                }
            }
            (Some(a), None) => (a, first),
            (None, Some(b)) => (b, second),
            (None, None) => {
                return Err(Error::corrupt("neither header has a valid checksum")
                    .in_structure(STRUCTURE)
                    .at(first));
            }
        };
        Self::parse(bytes, at)
    }

    fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let fields = Fields::new(bytes, STRUCTURE, at);
        let version = fields.u16_le(66)?;
        if version != 1 {
            return Err(fields
                .unsupported(66, format!("version {version} of VHDX is not read"))
                .mismatch(1, version));
        }
        let header = Self {
            sequence: fields.u64_le(8)?,
            file_write: Uuid::from_bytes_le(fields.array(16)?),
            data_write: Uuid::from_bytes_le(fields.array(32)?),
            log: Uuid::from_bytes_le(fields.array(48)?),
            log_len: u64::from(fields.u32_le(68)?),
            log_offset: fields.u64_le(72)?,
        };
        let log_version = fields.u16_le(64)?;
        if log_version != 0 && !header.log.is_nil() {
            return Err(fields
                .unsupported(64, format!("version {log_version} of the log is not read"))
                .mismatch(0, log_version));
        }
        if !header.log_len.is_multiple_of(MIB) {
            return Err(fields
                .corrupt(68, "length of the log is out of range")
                .mismatch("a multiple of 1 MiB", header.log_len));
        }
        if !header.log_offset.is_multiple_of(MIB) || (header.log_len > 0 && header.log_offset < MIB)
        {
            return Err(fields
                .corrupt(72, "offset of the log is out of range")
                .mismatch("a multiple of 1 MiB, not 0", header.log_offset));
        }
        Ok(header)
    }

    /// Writes it over both headers of `storage`, each with the next sequence number.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn renew(&mut self, storage: &dyn StorageMut) -> Result<()> {
        for at in HEADERS {
            self.sequence = self.sequence.wrapping_add(1);
            storage.write_at(&self.encode(), at)?;
        }
        Ok(())
    }

    /// The header as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend(b"head\0\0\0\0");
        bytes.extend(self.sequence.to_le_bytes());
        for guid in [self.file_write, self.data_write, self.log] {
            bytes.extend(guid.to_bytes_le());
        }
        bytes.extend(0u16.to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        let log_len = u32::try_from(self.log_len).unwrap_or(u32::MAX);
        bytes.extend(log_len.to_le_bytes());
        bytes.extend(self.log_offset.to_le_bytes());
        bytes.resize(HEADER_LEN, 0);
        seal(&mut bytes);
        bytes
    }
}

/// Puts the checksum of `bytes` where it belongs.
pub(super) fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes).to_le_bytes();
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&sum);
    }
}

/// Those of the two headers that are damaged.
///
/// # Errors
/// Io when the storage fails.
pub(super) fn damaged(storage: &dyn Storage) -> Result<Vec<u64>> {
    let mut damaged = Vec::new();
    for at in HEADERS {
        if valid(storage, at)?.is_none() {
            damaged.push(at);
        }
    }
    Ok(damaged)
}

/// The header at `at`, when its signature and checksum are right.
fn valid(storage: &dyn Storage, at: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; HEADER_LEN];
    storage.read_at(&mut bytes, at)?;
    let found = Fields::new(&bytes, STRUCTURE, at).u32_le(4)?;
    Ok((bytes.starts_with(b"head") && found == checksum(&bytes)).then_some(bytes))
}

fn sequence(bytes: &[u8], at: u64) -> Result<u64> {
    Fields::new(bytes, STRUCTURE, at).u64_le(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::{Kind, Memory};

    fn header(sequence: u64) -> Header {
        Header {
            sequence,
            file_write: Uuid::from_u128(1),
            data_write: Uuid::from_u128(u128::from(sequence)),
            log_offset: MIB,
            log_len: MIB,
            log: Uuid::nil(),
        }
    }

    fn file(first: &[u8], second: &[u8]) -> Memory {
        let mut bytes = SIGNATURE.to_vec();
        bytes.resize(65_536, 0);
        bytes.extend(first);
        bytes.resize(131_072, 0);
        bytes.extend(second);
        bytes.resize(196_608, 0);
        Memory::new("x.vhdx", bytes)
    }

    #[test]
    fn the_valid_header_with_the_greater_sequence_number_is_current() {
        let (old, new) = (header(6).encode(), header(7).encode());
        let mut torn = new.clone();
        torn[100] ^= 1;
        for (first, second, expected) in [
            (&old, &new, header(7)),
            (&new, &old, header(7)),
            (&old, &torn, header(6)),
            (&torn, &old, header(6)),
            (&new, &new, header(7)),
        ] {
            assert_eq!(Header::read(&file(first, second)).unwrap(), expected);
        }
        let error = Header::read(&file(&torn, &torn)).unwrap_err();
        assert!(error.to_string().contains("neither header"), "{error}");
    }

    #[test]
    fn two_headers_of_one_sequence_number_are_an_error() {
        let mut other = header(7);
        other.data_write = Uuid::from_u128(99);
        let error = Header::read(&file(&header(7).encode(), &other.encode())).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(error.offset(), Some(131_080));
    }

    #[test]
    fn other_versions_are_refused_by_name() {
        let mut bytes = header(7).encode();
        bytes[66] = 2;
        seal(&mut bytes);
        let error = Header::read(&file(&bytes, &bytes)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("version 2 of VHDX"), "{error}");
        let mut bytes = header(7).encode();
        bytes[48] = 1;
        bytes[64] = 1;
        seal(&mut bytes);
        let error = Header::read(&file(&bytes, &bytes)).unwrap_err();
        assert!(
            error.to_string().contains("version 1 of the log"),
            "{error}"
        );
    }
}
