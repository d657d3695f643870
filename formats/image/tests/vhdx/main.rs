//! VHDX against foreign judges: qemu-img and qemu-io make, check, repair and compare the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bytes;
mod changing;
mod checks;
mod corpora;
mod corruption;
mod log;
mod options;
mod parents;
mod reading;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod writing;
