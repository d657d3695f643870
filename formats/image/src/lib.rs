//! Disk image formats: each answers where a guest's bytes are, and each can be written.
//!
//! Reading: [`Image::open`] opens an image and its parents and gives one
//! [`Disk`](rehost_block::Disk). Writing: [`create`] gives a [`Target`], which is filled by the copy
//! engine and becomes a valid image only when it is published.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod codec;
mod create;
mod format;
mod image;
mod qcow2;
mod raw;
mod target;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

pub use create::{Compression, TargetSpec, VhdKind, VmdkKind, create};
pub use format::Format;
pub use image::{Backing, Details, Image, LayerDescription};
pub use qcow2::Qcow2Details;
pub use target::{Order, Payload, Target, Written};
pub use vdi::VdiDetails;
pub use vhd::VhdDetails;
pub use vhdx::{VhdxDetails, VhdxKind};
pub use vmdk::{Adapter, VmdkDetails};
