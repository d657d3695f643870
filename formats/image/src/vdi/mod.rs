//! VDI, `VirtualBox`'s own disk image: a header, a block map, and blocks.
//!
//! The layout of version 1.1 is that of `VirtualBox`'s public `VDICore.h`. Reads dynamic, static and
//! differencing images, with any power of two as block size; writes dynamic and static ones. A VDI
//! knows its parent by its UUID alone, not by a name: it is looked for among the `.vdi` files of the
//! image's own folder and of the folders that the user allowed.
//!
//! Leaves out on purpose, refused by name: undo images, images that lie over another one and do not
//! say that they are differencing, and images of version 0 (before 2007). Differencing images are not
//! written.

mod check;
mod edit;
mod header;
mod layer;
mod parent;
mod repair;
mod target;

pub(crate) use check::check;
pub(crate) use edit::edit;
pub(crate) use header::is_vdi;
pub(crate) use layer::open;
pub(crate) use repair::repair;
pub(crate) use target::create;
