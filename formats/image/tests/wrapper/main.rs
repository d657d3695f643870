//! Wrapped images against foreign judges: gzip, xz, zstd and bzip2 pack, test and unpack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod reading;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod writing;

use std::path::Path;

use rehost_block::{Result, SameFolder};
use rehost_image::{Access, Image, OpenOptions, Unpacking, Wrapping};

/// Opens `path` with a little room for what has to be unpacked.
fn open(path: &Path) -> Result<Image> {
    Image::open_with(path, &options(), &SameFolder)
}

fn options() -> OpenOptions<'static> {
    OpenOptions {
        unpacking: Some(Unpacking {
            most: 64 << 20,
            folder: env!("CARGO_TARGET_TMPDIR").into(),
        }),
        ..OpenOptions::default()
    }
}

fn wrapping(image: &Image) -> Wrapping {
    image.layers()[0].wrapper.clone().unwrap()
}

fn pieces(image: &Image) -> Option<usize> {
    match wrapping(image).access {
        Access::Index { pieces } => Some(pieces),
        Access::TemporaryFile { .. } => None,
    }
}
