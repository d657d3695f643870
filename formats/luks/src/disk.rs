//! `LuksDisk`: the plain bytes of an unlocked volume.
//!
//! `locate` answers in units of 64 KiB, each with a codec that knows its sectors' numbers, so that a
//! copy decrypts in as many threads as it has. A hole of the container is not a hole of the disk:
//! zeroes decrypt to noise, and are read like anything else.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, DiskMut, DiskStorage, Error, Located, Packed, Result, Run, Storage};

use crate::cipher::EncryptedSectors;
use crate::header::Header;
use crate::segment::{Placed, Spot, find, place};
use crate::unlock::VolumeKey;

/// Plain bytes that `locate` hands out to be decrypted as one, at most. Small enough that a reader
/// of a few sectors wastes little, large enough that the reads are not what counts.
const UNIT: u64 = 64 << 10;

/// Bytes that are encrypted before they are written, at most: bounds memory.
const BATCH: u64 = 256 << 10;

/// An unlocked volume inside a disk. `LuksDisk<dyn DiskMut>` is also called [`LuksDiskMut`].
#[derive(Debug)]
pub struct LuksDisk<D: ?Sized + 'static = dyn Disk> {
    container: Arc<D>,
    /// The same, for readers of what `locate` answers.
    storage: Arc<dyn Storage>,
    segments: Vec<Placed>,
    size: u64,
    /// Held while a part of a sector is replaced: two writers may each have half of it.
    partial: Mutex<()>,
}

/// An unlocked volume that is written through: what is written is encrypted at once.
pub type LuksDiskMut = LuksDisk<dyn DiskMut>;

impl<D: Disk + ?Sized + 'static> LuksDisk<D> {
    /// The plain disk of the volume that fills `container`, which is called `name` in messages.
    /// Bytes at the container's end that are no whole sector are not part of it.
    ///
    /// # Errors
    /// Unsupported when the header says that the volume cannot be used or its data is elsewhere;
    /// Corrupt when the container ends before the data does.
    pub fn new(
        name: impl AsRef<Path>,
        container: Arc<D>,
        header: &Header,
        key: &VolumeKey,
    ) -> Result<Self> {
        let name = name.as_ref();
        let (segments, size) =
            place(header, key, container.size()).map_err(|error| error.in_file(name))?;
        Ok(Self {
            storage: Arc::new(DiskStorage::new(name, Arc::clone(&container))),
            container,
            segments,
            size,
            partial: Mutex::new(()),
        })
    }

    fn spot(&self, offset: u64) -> Result<Spot<'_>> {
        find(&self.segments, offset)
            .ok_or_else(|| Error::internal("a place between the segments").at(offset))
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::usage("range reaches past the end of the disk")
                .in_file(self.storage.name())
                .at(offset)
                .mismatch(
                    format!("an end of at most {}", self.size),
                    format!("{len} bytes more"),
                )),
        }
    }

    /// Reads whole sectors and decrypts them.
    fn read_sectors(&self, sectors: &mut [u8], spot: &Spot<'_>) -> Result<()> {
        self.storage.read_at(sectors, spot.in_container())?;
        spot.segment.cipher.decrypt(sectors, spot.number())
    }

    /// The sector that `spot` lies in, plain, and the part of it from there on, `most` bytes at most.
    fn read_around(&self, spot: &Spot<'_>, most: usize) -> Result<Sector> {
        let mut bytes = vec![0; usize::from(spot.sector_size().get())];
        self.read_sectors(&mut bytes, &spot.sector_start())?;
        let from = length(spot.in_sector())?;
        let to = from.saturating_add(most).min(bytes.len());
        Ok(Sector {
            bytes,
            part: from..to,
        })
    }
}

/// A plain sector and the part of it that is asked for.
struct Sector {
    bytes: Vec<u8>,
    part: std::ops::Range<usize>,
}

impl<D: Disk + ?Sized + 'static> Disk for LuksDisk<D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        if offset >= self.size {
            return Ok(Located::new(Run::End, 0));
        }
        let spot = self.spot(offset)?;
        let skip = spot.within % UNIT;
        let start = spot.at(spot.within.saturating_sub(skip));
        let unit = start.left().min(UNIT);
        let codec = EncryptedSectors::new(Arc::clone(&spot.segment.cipher), start.number());
        let packed = Packed {
            storage: Arc::clone(&self.storage),
            offset: start.in_container(),
            len: unit,
            codec: Arc::new(codec),
            unit: unit
                .try_into()
                .map_err(|_| Error::internal("an empty unit").at(offset))?,
            skip,
        };
        let len = unit.saturating_sub(skip).min(want);
        Ok(Located::new(Run::Packed(packed), len))
    }

    // Not the default, which would decrypt a whole unit for a few sectors of it.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, amount(buf.len()))?;
        let mut at = offset;
        let mut rest = buf;
        // Ends because every round fills at least one byte of `rest`.
        while !rest.is_empty() {
            let spot = self.spot(at)?;
            let mut len = length(spot.whole_sectors(amount(rest.len())))?;
            if len > 0 {
                let (sectors, _) = rest.split_at_mut(len);
                self.read_sectors(sectors, &spot)?;
            } else {
                let sector = self.read_around(&spot, rest.len())?;
                let part = sector.bytes.get(sector.part).unwrap_or_default();
                len = part.len();
                let (place, _) = rest.split_at_mut(len);
                place.copy_from_slice(part);
            }
            at = at.saturating_add(amount(len));
            rest = rest.split_at_mut(len).1;
        }
        Ok(())
    }
}

/// What is to be written.
enum Content<'a> {
    Bytes(&'a [u8]),
    Zeroes,
}

impl Content<'_> {
    /// The bytes from `from` on.
    fn fill(&self, from: u64, piece: &mut [u8]) -> Result<()> {
        match self {
            Self::Zeroes => piece.fill(0),
            Self::Bytes(bytes) => {
                let from = length(from)?;
                let bytes = from
                    .checked_add(piece.len())
                    .and_then(|to| bytes.get(from..to))
                    .ok_or_else(|| Error::internal("a piece past the end of what is written"))?;
                piece.copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

impl<D: DiskMut + ?Sized + 'static> LuksDisk<D> {
    /// Encrypts whole sectors, which are lost by that, and writes them.
    fn write_sectors(&self, sectors: &mut [u8], spot: &Spot<'_>) -> Result<()> {
        spot.segment.cipher.encrypt(sectors, spot.number())?;
        self.container.write_at(sectors, spot.in_container())
    }

    /// Writes `len` bytes of `content` at `offset`.
    fn write(&self, offset: u64, len: u64, content: &Content<'_>) -> Result<()> {
        self.check(offset, len)?;
        let mut done = 0;
        let mut buffer = Vec::new();
        // Ends because every round writes at least one byte.
        while done < len {
            let spot = self.spot(offset.saturating_add(done))?;
            let left = len.saturating_sub(done).min(BATCH);
            let mut piece = length(spot.whole_sectors(left))?;
            if piece > 0 {
                buffer.resize(piece, 0);
                content.fill(done, &mut buffer)?;
                self.write_sectors(&mut buffer, &spot)?;
            } else {
                let _alone = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
                let mut sector = self.read_around(&spot, length(left)?)?;
                let part = sector.bytes.get_mut(sector.part).unwrap_or_default();
                piece = part.len();
                content.fill(done, part)?;
                self.write_sectors(&mut sector.bytes, &spot.sector_start())?;
            }
            done = done.saturating_add(amount(piece));
        }
        Ok(())
    }
}

impl<D: DiskMut + ?Sized + 'static> DiskMut for LuksDisk<D> {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write(offset, amount(data.len()), &Content::Bytes(data))
    }

    // Zeroes are encrypted like anything else: a hole would read as noise.
    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.write(offset, len, &Content::Zeroes)
    }

    fn sync(&self) -> Result<()> {
        self.container.sync()
    }
}

fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn length(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| Error::unsupported("length exceeds this machine's memory"))
}
