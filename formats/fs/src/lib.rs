//! Filesystems, read and written in process: no mount, no root.
//!
//! [`detect`] says what a volume holds and [`open`] opens it. [`FileSystem`] reads,
//! [`FileSystemMut`] writes; [`path`] resolves paths over either.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod detect;
mod ext4;
mod filesystem;
pub mod path;

pub use detect::{Kind, detect, open};
pub use ext4::{Ext4, Ext4Mut};
pub use filesystem::{
    Attributes, DirEntry, FileKind, FileSystem, FileSystemMut, Identity, Inode, Stored,
};
