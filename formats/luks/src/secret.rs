//! `Secret`: what a user knows or has, wiped from memory when it is dropped.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rehost_block::{Error, Result};
use zeroize::Zeroizing;

/// Longest key that is read from a file, in bytes (cryptsetup's limit).
const MAX_KEY_FILE: u64 = 8 << 20;

/// A passphrase or the content of a key file.
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// A passphrase as it is typed, without the end of its line.
    #[must_use]
    pub fn passphrase(text: &str) -> Self {
        Self::from(text.as_bytes().to_vec())
    }

    /// `size` bytes of the file at `path` from byte `offset`, or all from there on. As with
    /// cryptsetup's `--key-file`, every byte counts, also a line feed at the end.
    ///
    /// # Errors
    /// Io when the file cannot be read; Usage when it has fewer bytes, none at all, or more than
    /// 8 MiB.
    pub fn key_file(path: impl AsRef<Path>, offset: u64, size: Option<u64>) -> Result<Self> {
        let path = path.as_ref();
        read(path, offset, size).map_err(|error| error.in_file(path))
    }

    /// The bytes that keys are derived from.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Zeroizing::new(bytes),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn read(path: &Path, offset: u64, size: Option<u64>) -> Result<Secret> {
    let failed = |source: io::Error| Error::io("cannot read the key file", source);
    let mut file = File::open(path).map_err(failed)?;
    let limit = size.unwrap_or(MAX_KEY_FILE);
    if limit > MAX_KEY_FILE {
        return Err(too_long());
    }
    if file.seek(SeekFrom::Start(offset)).is_err() {
        // A pipe: what comes before the key is read and dropped.
        if offset > MAX_KEY_FILE {
            return Err(Error::usage(
                "offset in a key file that cannot seek is beyond 8 MiB",
            ));
        }
        io::copy(&mut file.by_ref().take(offset), &mut io::sink()).map_err(failed)?;
    }
    // All of it is allocated at once, so that no smaller copy is left behind unwiped.
    let most = limit.saturating_add(1);
    let room = usize::try_from(most).map_err(|_| too_long())?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let most = size.unwrap_or(most);
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    match size {
        Some(size) if got < size => {
            Err(Error::usage("key file is too short").mismatch(format!("{size} bytes"), got))
        }
        None if got > MAX_KEY_FILE => Err(too_long()),
        _ if got == 0 => Err(Error::usage("key file holds no key").at(offset)),
        _ => Ok(Secret { bytes }),
    }
}

fn too_long() -> Error {
    Error::usage("key file is longer than 8 MiB").hint("give the size of the key in it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rehost_block::Kind;
    use std::io::Write;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_key_file_is_taken_whole_or_in_part() {
        let file = file(b"0123456789\n");
        let read = |offset, size| Secret::key_file(file.path(), offset, size);
        assert_eq!(read(0, None).unwrap().expose(), b"0123456789\n");
        assert_eq!(read(4, None).unwrap().expose(), b"456789\n");
        assert_eq!(read(4, Some(3)).unwrap().expose(), b"456");
        for (offset, size) in [(4, Some(8)), (11, None), (99, None), (0, Some(9 << 20))] {
            let error = read(offset, size).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{error}");
        }
    }

    #[test]
    fn an_endless_key_file_is_refused() {
        let error = Secret::key_file("/dev/zero", 0, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        let key = Secret::key_file("/dev/zero", 7, Some(32)).unwrap();
        assert_eq!(key.expose(), [0; 32]);
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        assert!(!format!("{:?}", Secret::passphrase("hunter2")).contains("hunter2"));
    }
}
