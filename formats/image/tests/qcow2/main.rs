//! qcow2 against foreign judges: qemu-img and qemu-io make, check and compare the images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checking;
mod corpora;
mod corruption;
mod editing;
mod encryption;
mod hostile;
mod judging;
mod options;
mod reading;
mod snapshots;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod writing;
