//! Plans and applies the edits that make a guest boot on its new hardware.
//!
//! [`plan::plan`] says what to change and why, and changes nothing. [`initramfs`] and [`kmod`] build what goes into
//! the guest's files.
#![forbid(unsafe_code)]

pub mod guest;
pub mod initramfs;
pub mod kmod;
pub mod plan;
pub mod target;
