//! Plans and applies the edits that make a guest boot on its new hardware.
//!
//! [`plan::plan`] says what to change and why, and changes nothing. [`apply::apply`] does it, over
//! copy-on-write views of the disks, checked before and after. [`initramfs`] and [`kmod`] build what
//! goes into the guest's files.
#![forbid(unsafe_code)]

pub mod apply;
pub mod guest;
pub mod initramfs;
pub mod kmod;
pub mod plan;
pub mod target;
pub mod unified;
