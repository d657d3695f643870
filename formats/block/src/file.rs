//! `File`: a storage that is a file or a block device, through positional system calls.
//!
//! Leaves out memory mapping on purpose: a source that shrinks while it is read would kill the
//! process with `SIGBUS` instead of giving an error.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom, fallocate, ftruncate, open, seek};
use rustix::io::Errno;

use crate::disk::amount;
use crate::storage::fill_holes;
use crate::writeout::WriteOut;
use crate::{Error, Presence, Result, Storage, StorageMut};

/// Zeroes written at a time where a hole cannot be punched.
const ZEROES: usize = 1 << 20;

/// A file or block device.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    file: fs::File,
    size: u64,
    sparse: bool,
    /// The last stretch of data that was found, where nobody writes: finding its end makes the file
    /// system walk all of it (tmpfs page by page), which a copy would ask for at every step.
    known_data: Option<Mutex<Range<u64>>>,
    /// For what is made to last: temporary files may well end before the kernel writes them.
    write_out: Option<WriteOut>,
    /// Set when flushing is the operating system's business.
    unflushed: AtomicBool,
}

impl File {
    /// Opens `path` for reading only.
    ///
    /// # Errors
    /// Io when it cannot be opened; Usage when it is a directory, a pipe or a socket.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Opening a pipe would wait for its writer; the flag means nothing to files and disks.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty())
            .map_err(|error| Error::io("cannot open", error).in_file(path))?
            .into();
        let mut opened = Self::from_file(file, path)?;
        opened.known_data = Some(Mutex::default());
        Ok(opened)
    }

    /// Creates `path` for writing; fails when it exists.
    ///
    /// # Errors
    /// Io when it exists or cannot be created.
    pub fn create_new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| Error::io("cannot create", error).in_file(path))?;
        let mut made = Self::from_file(file, path)?;
        made.write_out = Some(WriteOut::default());
        Ok(made)
    }

    /// Opens an existing file or device for reading and writing.
    ///
    /// # Errors
    /// Io when it cannot be opened so.
    pub fn open_mut(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| Error::io("cannot open for writing", error).in_file(path))?;
        let mut made = Self::from_file(file, path)?;
        made.write_out = Some(WriteOut::default());
        Ok(made)
    }

    /// An unlinked temporary file in `folder`: space for an overlay that ends with the process.
    ///
    /// # Errors
    /// Io when the folder cannot hold one.
    pub fn temporary(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let file = tempfile::tempfile_in(folder)
            .map_err(|error| Error::io("cannot create a temporary file", error).in_file(folder))?;
        Self::from_file(file, &folder.join("(temporary file)"))
    }

    /// From here on it is the operating system's business when what is written reaches stable
    /// storage: [`StorageMut::sync`] returns at once.
    pub fn leave_flushing(&self) {
        self.unflushed.store(true, Ordering::Relaxed);
    }

    fn from_file(file: fs::File, path: &Path) -> Result<Self> {
        let io = |error: io::Error| Error::io("cannot be examined", error).in_file(path);
        let meta = file.metadata().map_err(io)?;
        let kind = meta.file_type();
        let size = if kind.is_file() {
            meta.len()
        } else if kind.is_block_device() {
            seek(&file, SeekFrom::End(0)).map_err(|error| io(error.into()))?
        } else {
            return Err(Error::usage("is neither a file nor a block device").in_file(path));
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            sparse: kind.is_file(),
            known_data: None,
            write_out: None,
            unflushed: AtomicBool::new(false),
        })
    }

    fn known_data(&self) -> Option<MutexGuard<'_, Range<u64>>> {
        let known = self.known_data.as_ref()?;
        Some(known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, what: &str, offset: u64, error: impl Into<io::Error>) -> Error {
        let error = Error::io(what, error).at(offset).in_file(&self.path);
        match error.to_string() {
            text if text.contains("No space left") => {
                error.hint("free some space or choose another target")
            }
            _ => error,
        }
    }

    fn current_size(&self) -> u64 {
        // It grows while it is written, which may happen through another handle: an image that is changed in
        // place has its extents open twice.
        if self.sparse {
            self.file.metadata().map_or(self.size, |meta| meta.len())
        } else {
            self.size
        }
    }
}

impl Storage for File {
    fn name(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.current_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::corrupt("file is truncated")
                    .in_file(&self.path)
                    .at(offset)
                    .mismatch(
                        format!("{} more bytes", buf.len()),
                        self.current_size().saturating_sub(offset),
                    )
                    .hint("copy the image again from its origin")
            } else {
                self.failed("cannot read", offset, error)
            }
        })
    }

    fn presence(&self, offset: u64, want: u64) -> Result<(Presence, u64)> {
        if !self.sparse {
            return Ok((Presence::Data, want));
        }
        if let Some(known) = self.known_data()
            && known.contains(&offset)
        {
            return Ok((Presence::Data, known.end.saturating_sub(offset).min(want)));
        }
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => {
                Ok((Presence::Hole, data.saturating_sub(offset).min(want)))
            }
            Ok(_) => match seek(&self.file, SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => {
                    if let Some(mut known) = self.known_data() {
                        *known = offset..hole;
                    }
                    Ok((Presence::Data, hole.saturating_sub(offset).min(want)))
                }
                Ok(_) => Ok((Presence::Data, want)),
                Err(error) => Err(self.failed("cannot seek to a hole", offset, error)),
            },
            // No data until the end of the file.
            Err(Errno::NXIO) if offset < self.current_size() => Ok((Presence::Hole, want)),
            // A file system without holes, or a read past the end, which the read itself reports.
            Err(_) => Ok((Presence::Data, want)),
        }
    }

    fn as_file(&self) -> Option<&fs::File> {
        Some(&self.file)
    }
}

impl StorageMut for File {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|error| self.failed("cannot write", offset, error))?;
        if let Some(write_out) = &self.write_out
            && !self.unflushed.load(Ordering::Relaxed)
        {
            write_out.written(&self.file, offset.saturating_add(amount(data.len())));
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        if !self.sparse {
            return if size <= self.size {
                Ok(())
            } else {
                Err(Error::usage("device is too small")
                    .in_file(&self.path)
                    .mismatch(format!("at least {size} bytes"), self.size))
            };
        }
        ftruncate(&self.file, size).map_err(|error| self.failed("cannot resize", size, error))
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, punch, offset, len).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; ZEROES];
        let mut at = offset;
        let mut left = len;
        // Ends because `left` shrinks by at least one byte a round.
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(ZEROES).min(ZEROES);
            self.write_at(zeroes.get(..part).unwrap_or(&zeroes), at)?;
            at = at.saturating_add(amount(part));
            left = left.saturating_sub(amount(part));
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 || !self.sparse {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill_holes(self, offset, len),
            Err(error) => Err(self.failed("cannot reserve room", offset, error)),
        }
    }

    fn sync(&self) -> Result<()> {
        if self.unflushed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|error| self.failed("cannot flush", 0, error))
    }
}
