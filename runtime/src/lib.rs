//! Boots a guest in its own virtual machine and says what it saw.
//!
//! Two engines run the same [`Machine`]: the built-in one on `/dev/kvm`, and QEMU. [`choose`] finds
//! the one that works here; [`boot`] runs it, watches the guest's serial console and gives a
//! [`Verdict`]. `unsafe` exists in this crate alone.

mod engine;
#[cfg(target_arch = "x86_64")]
pub mod kvm;
mod machine;
mod neighbours;
mod qemu;
mod recognise;
mod recognisers;
mod uefi;
mod verdict;

pub use engine::{Chosen, EngineChoice, choose};
pub use machine::{
    Bus, DirectBoot, Ended, Engine, Firmware, Mac, Machine, MachineDisk, MachineNic, Next,
    NicModel, Start, Watch, Wire,
};
pub use neighbours::{Answer, Asked, Neighbours};
pub use qemu::{Accelerator, QemuEngine};
pub use recognise::{Meaning, Recogniser, Shape, Stage};
pub use recognisers::recognisers;
pub use uefi::UefiImage;
pub use verdict::{Limits, Milestone, Outcome, Verdict, boot};
