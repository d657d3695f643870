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

mod blocks;
mod codec;
mod create;
mod details;
mod format;
mod image;
mod layer;
mod qcow2;
mod raw;
mod sniff;
mod target;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

pub use create::{Compression, TargetSpec, VhdKind, VmdkKind, create};
pub use details::{
    Details, Qcow2Details, VdiDetails, VhdDetails, VhdxDetails, VhdxKind, VmdkDetails,
};
pub use format::Format;
pub use image::Image;
pub use layer::{Backing, LayerDescription};
pub use target::{Order, Payload, Target, Written};
pub use vmdk::Adapter;
