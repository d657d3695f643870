//! LUKS against foreign judges: qemu-img and cryptsetup make, open and read the volumes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpora;
mod corruption;
mod cryptsetup;
mod made;
mod qemu;
mod support;
mod writing;
