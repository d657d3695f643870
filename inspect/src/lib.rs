//! What is on a disk: operating system, kernels, boot loader, network.
//!
//! Reads only; runs nothing of the guest's; asks nothing. [`inspect`] takes disks and gives a
//! [`Guest`]: its [`model::Inspection`] (values, printable, serialisable) and its [`GuestTree`]
//! (paths across all its filesystems). [`Volumes`] is the part of it that looks at no system.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod boot;
mod device;
mod findings;
mod guest;
pub mod initramfs;
mod kernels;
pub mod model;
pub mod modules;
mod names;
mod network;
pub mod packages;
mod reader;
mod render;
mod schema;
mod system;
mod text;
mod tree;
pub mod unified;
mod volumes;

pub use boot::BootChoice;
pub use findings::catalogue::{CATALOGUE, FindingKind};
pub use guest::{Guest, Options, find_mounts, inspect, inspect_volumes, only_tree};
pub use kernels::DRIVERS;
pub use model::Inspection;
pub use schema::inspection_schema;
pub use tree::{GuestTree, Location, OpenedFilesystem};
pub use volumes::Volumes;
