//! Disk image formats: each answers where a guest's bytes are, and each can be written.
//!
//! Reading: [`open`] gives an [`Image`], a [`Disk`](rehost_block::Disk) over the image and its
//! parents. Writing: [`Target`], which is filled by the copy engine and becomes a valid image only
//! when it is published.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing
    )
)]

mod format;
mod target;

pub use format::Format;
pub use target::{Order, Payload, Target, Written};
