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
mod check;
mod codec;
mod create;
mod details;
mod format;
mod image;
mod in_place;
mod layer;
mod options;
mod parallels;
mod qcow;
mod qcow2;
mod qed;
mod raw;
mod room;
mod sector_bits;
mod snapshots;
mod sniff;
mod target;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod words;
mod wrapper;

pub use check::{Check, Finding, Repair, Severity, check, repair};
pub use create::{TargetBacking, TargetSpec, create};
pub use details::{
    Details, ParallelsBitmap, ParallelsDetails, Qcow2Details, QcowDetails, QedDetails, VdiDetails,
    VhdDetails, VhdxDetails, VhdxKind, VmdkDetails,
};
pub use format::Format;
pub use image::{Image, OpenOptions};
pub use in_place::{EditFiles, LayerMut, edit};
pub use layer::{Backing, LayerDescription};
pub use options::{
    Adapter, Compat, Compression, OptionDescription, Preallocation, Qcow2Options, RawOptions,
    TargetOptions, VdiKind, VdiOptions, VhdKind, VhdOptions, VhdxOptions, VhdxSubformat, VmdkKind,
    VmdkOptions, Wrap, parse_size,
};
pub use qcow2::KeptBitmap;
pub use rehost_luks::Secret;
pub use snapshots::{
    Bitmap, Snapshot, Snapshots, bitmaps, edit_snapshots, keep_bitmaps, snapshots,
};
pub use target::{OneFile, Order, Payload, Placed, Target, TargetFiles, Written};
pub use wrapper::{Access, Unpacking, Wrapper, Wrapping, unwrap, wrap};
