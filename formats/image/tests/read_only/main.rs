//! The formats that are read and never written, against foreign judges: qemu-img and qemu-io make
//! the images and say what is in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundle;
mod chains;
mod corpora;
mod corruption;
mod made;
mod reading;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
