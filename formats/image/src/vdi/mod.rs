//! VDI, `VirtualBox`'s own disk image: a header, a block map, and blocks.
//!
//! The layout of version 1.1 is that of `VirtualBox`'s public `VDICore.h`. Reads dynamic and static
//! images, with any power of two as block size; writes dynamic ones.
//!
//! Leaves out on purpose, refused by name: differencing and undo images (a VDI knows its parent by
//! its UUID alone, which only the registry of the `VirtualBox` that made it can turn into a file),
//! images of version 0 (before 2007), and block devices as targets.

mod header;
mod layer;
mod target;

pub(crate) use header::is_vdi;
pub(crate) use layer::open;
pub(crate) use target::create;
