//! Plans and applies the edits that make a guest boot on its new hardware.
//!
//! [`initramfs`] and [`kmod`] build what goes into the guest's files.
#![forbid(unsafe_code)]

pub mod initramfs;
pub mod kmod;
