//! VMDK against foreign judges: qemu-img and qemu-io make, check and compare the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpora;
mod corruption;
#[allow(dead_code)]
#[path = "../qcow2/judge.rs"]
mod judge;
mod parents;
mod reading;
mod writing;
