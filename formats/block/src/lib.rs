//! The block layer: what every format, filesystem and the pipeline stand on.
//!
//! A [`Storage`] is a byte container that can be read at any position (a file, memory). A
//! [`Layer`] is one image file's answer to the question *where is this guest byte?*
//! ([`Layer::locate`]). A [`Disk`] is what a guest sees: a resolved address space made of layers
//! ([`Chain`]), of a part of another disk ([`Window`]), or of changes over one ([`Overlay`]).
//!
//! Left out on purpose: knowledge of any format, asynchronous I/O and threads. Parallelism belongs
//! to the pipeline.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod blanked;
mod chain;
mod disk;
mod disk_storage;
pub mod doubles;
mod error;
mod fields;
mod file;
pub mod journal;
mod memory;
mod opener;
mod overlay;
mod storage;
mod window;
mod writeout;

pub use blanked::Blanked;
pub use chain::Chain;
pub use disk::{Codec, Disk, DiskMut, Layer, Located, Packed, Run, StorageDisk, round_up};
pub use disk_storage::DiskStorage;
pub use error::{Error, Kind, Result};
pub use fields::{Fields, is_zero};
pub use file::File;
pub use journal::Journal;
pub use memory::Memory;
pub use opener::{AllowedFolders, Opened, Opener, SameFolder};
pub use overlay::Overlay;
pub use storage::{Presence, Storage, StorageMut, fill_holes};
pub use window::{Window, WindowMut};
