//! `measure`: how long an image's files would be, to the byte.
//!
//! Nothing is estimated: the copy runs as it would, into storages that keep only their length. So
//! compressed targets cost the time of their compression.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rehost_block::{Disk, Located, Result, Run, Storage, StorageMut};
use rehost_image::{Payload, Target, TargetFiles, TargetSpec, create};
use serde::Serialize;

use super::range::PIECE;
use crate::copy::{CopyOptions, copy};
use crate::interrupt;

/// Lengths in bytes, of all files together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// What a conversion writes.
    pub required: u64,
    /// What it would be if the guest had filled its disk with data that does not compress.
    pub fully_allocated: u64,
    /// File by file, the one that names the others first.
    pub files: Vec<FileLength>,
}

/// Lengths of one file in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileLength {
    /// Its name.
    pub name: String,
    /// What a conversion writes.
    pub required: u64,
    /// What it would be if the disk were full.
    pub fully_allocated: u64,
}

/// Measures the image that `spec` describes with the content of `disk`, copied as `options` say.
///
/// # Errors
/// As [`create`] and [`copy`]; Usage when interrupted.
pub fn measure(
    disk: &dyn Disk,
    spec: &TargetSpec,
    options: &CopyOptions<'_>,
    cancel: &AtomicBool,
) -> Result<Measured> {
    let needed = lengths(spec, |target| copy(disk, target, options).map(drop))?;
    let full = lengths(spec, |target| fill(target, spec.size, cancel))?;
    let files: Vec<FileLength> = needed
        .into_iter()
        .zip(full)
        .map(|((name, required), (_, fully_allocated))| FileLength {
            name,
            required,
            fully_allocated,
        })
        .collect();
    Ok(Measured {
        required: files.iter().map(|file| file.required).sum(),
        fully_allocated: files.iter().map(|file| file.fully_allocated).sum(),
        files,
    })
}

/// Names and lengths of the files of the image that `spec` describes, filled by `fill`.
fn lengths(
    spec: &TargetSpec,
    fill: impl FnOnce(&dyn Target) -> Result<()>,
) -> Result<Vec<(String, u64)>> {
    let files = Lengths::default();
    let image = files.create(&spec.name)?;
    let target = create(spec, image, &files)?;
    fill(&*target)?;
    target.publish()?;
    Ok(files.into_list())
}

/// Puts something that does not compress into every unit.
fn fill(target: &dyn Target, size: u64, cancel: &AtomicBool) -> Result<()> {
    let unit = target.unit().get();
    let whole = size - size % unit;
    let noise = noise(PIECE.next_multiple_of(unit) as usize);
    let mut packed = None;
    let mut at = 0;
    // Ends because every round goes on by at least one unit.
    while at < whole {
        interrupt::check(cancel)?;
        if let Some(placed) = target.place(at, whole - at)? {
            placed.storage.reserve(placed.offset, placed.len)?;
            at += placed.len;
            continue;
        }
        let piece = &noise[..noise.len().min((whole - at) as usize)];
        match target.pack(at, piece)? {
            Payload::Packed(units) => {
                // All units are packed alike: once is enough.
                let unit = packed.get_or_insert_with(|| units[0].clone());
                target.put(at, Payload::Packed(vec![unit.clone(); units.len()]))?;
            }
            other => target.put(at, other)?,
        }
        at += piece.len() as u64;
    }
    if size > whole {
        let rest = &noise[..(size - whole) as usize];
        target.put(whole, target.pack(whole, rest)?)?;
    }
    Ok(())
}

/// Bytes without any order.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = vec![0; len];
    for eight in noise.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes()[..eight.len()]);
    }
    noise
}

/// Files of which only the length is kept.
#[derive(Debug, Default)]
struct Lengths(Mutex<Vec<(String, Arc<Length>)>>);

impl Lengths {
    fn into_list(self) -> Vec<(String, u64)> {
        let files = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        files
            .into_iter()
            .map(|(name, file)| (name, file.len.load(Ordering::SeqCst)))
            .collect()
    }
}

impl TargetFiles for Lengths {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        let file = Arc::new(Length {
            name: PathBuf::from(name),
            len: AtomicU64::new(0),
        });
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push((name.to_owned(), Arc::clone(&file)));
        Ok(file)
    }
}

/// A file that reads as zeroes whatever is written to it, and knows how long it is.
#[derive(Debug)]
struct Length {
    name: PathBuf,
    len: AtomicU64,
}

impl Storage for Length {
    fn name(&self) -> &Path {
        &self.name
    }

    /// As a file's that was created: what it was then.
    fn size(&self) -> u64 {
        0
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
        buf.fill(0);
        Ok(())
    }
}

impl StorageMut for Length {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.reserve(offset, data.len() as u64)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.len.store(size, Ordering::SeqCst);
        Ok(())
    }

    fn zero_at(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        self.len.fetch_max(offset + len, Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// A disk of so many bytes of zeroes.
#[derive(Debug, Clone, Copy)]
pub struct Blank(pub u64);

impl Disk for Blank {
    fn size(&self) -> u64 {
        self.0
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        Ok(match self.0.saturating_sub(offset).min(want) {
            0 => Located::new(Run::End, 0),
            len => Located::new(Run::Zero, len),
        })
    }
}
