//! What is on a disk: operating system, kernels, boot loader, network.
//!
//! Reads only; runs nothing of the guest's; asks nothing. [`model`] holds what comes out.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

pub mod initramfs;
pub mod model;
pub mod modules;

pub use model::Inspection;
