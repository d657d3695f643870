//! Facts of a guest that stand in one small file each: release, host name, architecture, tools.

mod fstab;
mod named;
mod release;
mod software;
mod storage;
mod verity;

pub(crate) use fstab::{fstab, resume};
pub(crate) use named::{arrays, crypttab};
pub(crate) use release::{architecture, hostname, init, is_root, release};
pub(crate) use software::{cloud_init, selinux, tools};
pub(crate) use storage::{configured_arrays, crypt_mappings, lvm, multipath};
pub(crate) use verity::verified;
