//! Filesystems, read and written in process: no mount, no root.
//!
//! [`FileSystem`] reads, [`FileSystemMut`] writes; [`path`] resolves paths over either.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod filesystem;
pub mod path;

pub use filesystem::{
    Attributes, DirEntry, FileKind, FileSystem, FileSystemMut, Identity, Inode, Stored,
};
