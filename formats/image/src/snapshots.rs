//! What qcow2 images keep besides their disk: internal snapshots and dirty bitmaps.
//!
//! Reading the disk as it was: [`OpenOptions::snapshot`](crate::OpenOptions). Changing the list:
//! [`edit_snapshots`]; as with [`edit`](crate::edit), surviving a crash is the caller's journal's
//! business.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rehost_block::{Error, Opener, Result, Storage, StorageMut};
use serde::Serialize;

use crate::in_place::{EditFiles, Editing};
use crate::qcow2::KeptBitmap;
use crate::{Format, qcow2};

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Unique in its image.
    pub id: String,
    /// What the user called it.
    pub name: String,
    /// Guest-visible bytes of the disk as it was.
    pub disk_size: u64,
    /// Bytes of memory and device state, 0 without any.
    pub vm_state_size: u64,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u64,
    /// The rest of that.
    pub date_nanoseconds: u32,
    /// How long the machine had run.
    pub vm_clock_nanoseconds: u64,
}

/// One persistent dirty bitmap, which backup tools use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bitmap {
    /// Its name, unique in the image.
    pub name: String,
    /// Guest bytes that one bit stands for.
    pub granularity: u64,
    /// Whether writers keep it up to date (QEMU's `auto`).
    pub recording: bool,
    /// Whether a writer did not finish: the bits mean nothing.
    pub in_use: bool,
    /// Bits that are set; not counted while `in_use`.
    pub bits_set: Option<u64>,
}

/// The internal snapshots of an image that can be changed.
pub trait Snapshots: fmt::Debug {
    /// All of them, the oldest first.
    fn list(&self) -> Vec<Snapshot>;

    /// Keeps the disk as it is now under `name`, taken at `date`.
    ///
    /// # Errors
    /// Usage for a name that is taken or too long; Unsupported when the image cannot have (more)
    /// snapshots.
    fn create(&mut self, name: &str, date: SystemTime) -> Result<Snapshot>;

    /// Makes the disk what it was at the snapshot with this id or name; what it is now is lost.
    /// Memory and device state are not restored.
    ///
    /// # Errors
    /// Usage when there is no such snapshot.
    fn apply(&mut self, id_or_name: &str) -> Result<()>;

    /// Forgets the snapshot with this id or name.
    ///
    /// # Errors
    /// Usage when there is no such snapshot.
    fn delete(&mut self, id_or_name: &str) -> Result<()>;

    /// Writes what is still in memory. Does not sync.
    ///
    /// # Errors
    /// Io when the storage fails.
    fn flush(&mut self) -> Result<()>;
}

/// The internal snapshots of the image at `path`, the oldest first. Formats without any have none.
///
/// # Errors
/// As [`Image::open`](crate::Image::open).
pub fn snapshots(path: &Path, format: Format, storage: Arc<dyn Storage>) -> Result<Vec<Snapshot>> {
    match format {
        Format::Qcow2 => qcow2::snapshots(&*storage).map_err(|error| error.in_file(path)),
        _ => Ok(Vec::new()),
    }
}

/// The dirty bitmaps of the image at `path`. Formats without any have none.
///
/// # Errors
/// As [`Image::open`](crate::Image::open).
pub fn bitmaps(path: &Path, format: Format, storage: Arc<dyn Storage>) -> Result<Vec<Bitmap>> {
    match format {
        Format::Qcow2 => qcow2::bitmaps(&*storage).map_err(|error| error.in_file(path)),
        _ => Ok(Vec::new()),
    }
}

/// The bitmaps of the image at `path` that mean something, for a target to have them too. Formats
/// without any have none.
///
/// # Errors
/// As [`Image::open`](crate::Image::open).
pub fn keep_bitmaps(
    path: &Path,
    format: Format,
    storage: &Arc<dyn Storage>,
) -> Result<Vec<KeptBitmap>> {
    match format {
        Format::Qcow2 => qcow2::keep_bitmaps(storage).map_err(|error| error.in_file(path)),
        _ => Ok(Vec::new()),
    }
}

/// Opens one image file to change its internal snapshots.
///
/// # Errors
/// As [`edit`](crate::edit); Unsupported for formats without internal snapshots.
pub fn edit_snapshots(
    path: PathBuf,
    format: Format,
    storage: Arc<dyn StorageMut>,
    opener: &dyn Opener,
    files: &dyn EditFiles,
) -> Result<Box<dyn Snapshots>> {
    let editing = Editing {
        path: &path,
        storage,
        opener,
        files,
    };
    match format {
        Format::Qcow2 => {
            qcow2::edit_snapshots(&editing).map_err(|error| error.in_file(editing.path))
        }
        _ => Err(
            Error::unsupported(format!("{format} images have no internal snapshots"))
                .in_file(&path)
                .hint("only qcow2 has them"),
        ),
    }
}
