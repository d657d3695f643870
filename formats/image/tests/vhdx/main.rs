//! VHDX against foreign judges: qemu-img and qemu-io make, check, repair and compare the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bytes;
mod corpora;
mod corruption;
#[allow(dead_code)]
#[path = "../qcow2/judge.rs"]
mod judge;
mod log;
mod parents;
mod reading;
mod writing;
