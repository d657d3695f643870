//! Boots a guest in its own virtual machine and says what it saw.
//!
//! Two engines run the same [`Machine`]: the built-in one on `/dev/kvm`, and QEMU. `unsafe` exists
//! in this crate alone.

mod machine;

pub use machine::{Bus, DirectBoot, Ended, Engine, Machine, MachineDisk, Next, Start, Watch};
