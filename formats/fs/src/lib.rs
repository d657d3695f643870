//! Filesystems, read and written in process: no mount, no root.
//!
//! [`detect`] says what a volume holds; [`open`] and [`open_mut`] open it. [`FileSystem`] reads,
//! [`FileSystemMut`] writes; [`path`] resolves paths over either. [`fn@unused`] says
//! which bytes a filesystem does not use.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod btrfs;
mod content;
mod detect;
mod ext4;
mod fat;
mod filesystem;
mod iso9660;
mod number;
pub mod path;
mod places;
mod squashfs;
pub mod swap;
mod unused;
mod xfs;

pub use btrfs::{Btrfs, BtrfsMut, Member, Subvol, Subvolume};
pub use content::{Content, HostFile};
pub use detect::{Kind, detect, open, open_mut};
pub use ext4::{Ext4, Ext4Mut};
pub use fat::{Fat, FatMut};
pub use filesystem::{
    Attributes, DirEntry, FileKind, FileSystem, FileSystemMut, Identity, Inode, Stored,
};
pub use iso9660::Iso9660;
pub use squashfs::Squashfs;
pub use unused::unused;
pub use xfs::{Xfs, XfsMut};
