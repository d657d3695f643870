//! Facts of a guest that stand in one small file each: release, host name, architecture, tools.

mod fstab;
mod named;
mod release;
mod software;

pub(crate) use fstab::{fstab, resume};
pub(crate) use named::{arrays, crypttab};
pub(crate) use release::{architecture, hostname, init, is_root, release};
pub(crate) use software::{cloud_init, packages, selinux, tools};
