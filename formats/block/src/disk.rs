//! `Layer` and `Disk`: the one question, *where are these guest bytes?*
//!
//! A format implements [`Layer`] and answers for its own file only ([`Run::Below`] hands the
//! question to the parent). A [`Disk`] is resolved: its `locate` never answers `Below`. Reading,
//! mapping, copying and comparing are each written once over `Disk::locate`.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::{Error, Presence, Result, Storage};

/// Turns one packed unit into its plain bytes. Implemented by the format crates.
pub trait Codec: Send + Sync + fmt::Debug {
    /// The codec's name in `map` output (`zlib`, `zstd`).
    fn name(&self) -> &'static str;

    /// Decodes `packed` into exactly `plain.len()` bytes. `packed` may carry padding at its end
    /// where the format rounds compressed lengths up.
    ///
    /// # Errors
    /// Corrupt when `packed` does not decode to `plain.len()` bytes.
    fn decode(&self, packed: &[u8], plain: &mut [u8]) -> Result<()>;
}

/// A compressed unit (cluster, grain) and the part of it that a run covers.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Where the packed bytes are.
    pub storage: Arc<dyn Storage>,
    /// Their offset in the storage, in bytes.
    pub offset: u64,
    /// Their length, in bytes; may include padding.
    pub len: u64,
    /// How to decode them.
    pub codec: Arc<dyn Codec>,
    /// Plain length of the whole unit, in bytes.
    pub unit: NonZeroU64,
    /// Offset inside the plain unit at which the run starts, in bytes.
    pub skip: u64,
}

impl Packed {
    /// Reads and decodes the whole unit.
    ///
    /// # Errors
    /// Corrupt when the unit does not decode to its size; Io when it cannot be read.
    pub fn decode(&self) -> Result<Vec<u8>> {
        let mut packed = vec![0; length(self.len)?];
        self.storage.read_at(&mut packed, self.offset)?;
        let mut plain = vec![0; length(self.unit.get())?];
        self.codec
            .decode(&packed, &mut plain)
            .map_err(|error| error.at(self.offset).in_file(self.storage.name()))?;
        Ok(plain)
    }
}

/// Where a run of guest bytes is.
#[derive(Debug, Clone)]
pub enum Run {
    /// Stored plainly, at `offset` of `storage`.
    At {
        /// The storage that holds the bytes.
        storage: Arc<dyn Storage>,
        /// Byte offset in it.
        offset: u64,
    },
    /// Not in this layer: the parent answers. Never returned by a [`Disk`].
    Below,
    /// Reads as zeroes; nothing is stored.
    Zero,
    /// Stored compressed.
    Packed(Packed),
    /// At or past the end of the disk. Comes with length 0.
    End,
}

/// The answer of `locate`: what the first `len` bytes of the asked range are.
#[derive(Debug, Clone)]
pub struct Located {
    /// Where the bytes are.
    pub run: Run,
    /// For how many bytes that holds: at least 1 and at most what was asked for, 0 for
    /// [`Run::End`]. A caller that wants more asks again; neighbouring runs need not be merged.
    pub len: u64,
}

impl Located {
    /// `run`, for `len` bytes.
    #[must_use]
    pub const fn new(run: Run, len: u64) -> Self {
        Self { run, len }
    }
}

/// One image file's part of a disk: what a format implements.
pub trait Layer: Send + Sync + fmt::Debug {
    /// Guest-visible size in bytes.
    fn size(&self) -> u64;

    /// Where the guest bytes at `offset` are, for at most `want` (> 0) bytes.
    ///
    /// # Errors
    /// Corrupt when the format's own tables contradict themselves or the file is too short.
    fn locate(&self, offset: u64, want: u64) -> Result<Located>;
}

/// A disk as the guest sees it. Many threads may read at once.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Guest-visible size in bytes.
    fn size(&self) -> u64;

    /// Where the guest bytes at `offset` are, for at most `want` (> 0) bytes; never
    /// [`Run::Below`], and [`Run::End`] only at or past [`Disk::size`].
    ///
    /// # Errors
    /// As [`Layer::locate`].
    fn locate(&self, offset: u64, want: u64) -> Result<Located>;

    /// Fills `buf` with the guest bytes at `offset`.
    ///
    /// # Errors
    /// Usage when the range reaches past the end of the disk; otherwise as [`Disk::locate`] and
    /// [`Storage::read_at`].
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        read_located(self, buf, offset, &|packed| packed.decode().map(Arc::new))
    }
}

/// A disk that can be written: an [`Overlay`](crate::Overlay), a part of one, or a target.
pub trait DiskMut: Disk {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Usage when the range reaches past the end of the disk; Io when it cannot be stored.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes the range read as zeroes.
    ///
    /// # Errors
    /// As [`DiskMut::write_at`].
    fn zero_at(&self, offset: u64, len: u64) -> Result<()>;

    /// Returns once everything written would survive a crash, as far as the disk promises that
    /// (an overlay in memory promises nothing).
    ///
    /// # Errors
    /// Io when the operating system fails.
    fn sync(&self) -> Result<()>;
}

/// Fills `buf` from `disk`, decoding packed units with `unpack` (which may cache).
pub(crate) fn read_located<D: Disk + ?Sized>(
    disk: &D,
    buf: &mut [u8],
    offset: u64,
    unpack: &dyn Fn(&Packed) -> Result<Arc<Vec<u8>>>,
) -> Result<()> {
    check_range(disk.size(), offset, buf.len())?;
    let mut at = offset;
    let mut rest = buf;
    // Ends because every answer but an error consumes at least one byte of `rest`.
    while !rest.is_empty() {
        let want = rest.len();
        let located = disk.locate(at, amount(want))?;
        let len = usize::try_from(located.len).unwrap_or(want).min(want);
        if len == 0 {
            return Err(Error::internal("locate answered with an empty run").at(at));
        }
        let (part, tail) = rest.split_at_mut(len);
        match &located.run {
            Run::At { storage, offset } => storage.read_at(part, *offset)?,
            Run::Zero => part.fill(0),
            Run::Packed(packed) => {
                let plain = unpack(packed)?;
                let from = length(packed.skip)?;
                let bytes = from
                    .checked_add(len)
                    .and_then(|end| plain.get(from..end))
                    .ok_or_else(|| Error::internal("a packed run reaches past its unit").at(at))?;
                part.copy_from_slice(bytes);
            }
            Run::Below | Run::End => {
                return Err(Error::internal("an unresolved run reached a reader").at(at));
            }
        }
        at = at.saturating_add(amount(len));
        rest = tail;
    }
    Ok(())
}

/// Refuses a range that reaches past `size`.
pub(crate) fn check_range(size: u64, offset: u64, len: usize) -> Result<()> {
    match offset.checked_add(amount(len)) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::usage("range reaches past the end of the disk")
            .at(offset)
            .mismatch(
                format!("an end of at most {size}"),
                format!("{len} bytes more"),
            )),
    }
}

/// A buffer's length as a byte count. Lossless: `usize` is at most 64 bits wide on every target
/// this program builds for.
pub(crate) fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// `at` rounded up to a multiple of `unit`, or the end of the address space where there is none. The
/// standard library's `next_multiple_of` panics there, and no lint tells.
#[must_use]
pub fn round_up(at: u64, unit: u64) -> u64 {
    if unit == 0 {
        return at;
    }
    at.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

/// A byte count as a buffer's length.
pub(crate) fn length(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::unsupported("length exceeds this machine's memory"))
}

/// A storage seen as a disk, byte for byte: the raw format, holes included.
#[derive(Debug, Clone)]
pub struct StorageDisk {
    storage: Arc<dyn Storage>,
}

impl StorageDisk {
    /// All of `storage`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }
}

impl Layer for StorageDisk {
    fn size(&self) -> u64 {
        self.storage.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.storage.size().saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let (presence, len) = self.storage.presence(offset, want.min(left))?;
        let run = match presence {
            Presence::Data => Run::At {
                storage: Arc::clone(&self.storage),
                offset,
            },
            Presence::Hole => Run::Zero,
        };
        Ok(Located::new(run, len.min(want).min(left)))
    }
}

impl Disk for StorageDisk {
    fn size(&self) -> u64 {
        Layer::size(self)
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        Layer::locate(self, offset, want)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(Disk::size(self), offset, buf.len())?;
        self.storage.read_at(buf, offset)
    }
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        (**self).locate(offset, want)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_at(buf, offset)
    }
}

impl<D: DiskMut + ?Sized> DiskMut for Arc<D> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        (**self).write_at(data, offset)
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        (**self).zero_at(offset, len)
    }

    fn sync(&self) -> Result<()> {
        (**self).sync()
    }
}
