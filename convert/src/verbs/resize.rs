//! `resize`: another guest-visible size, in place.

use std::sync::atomic::AtomicBool;

use rehost_block::{Error, Opener, Result};
use rehost_image::Image;
use serde::Serialize;

use super::in_place;
use super::range::first_set;

/// What may be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrinking {
    /// Nothing: the disk only grows.
    Refused,
    /// Zeroes.
    Zeroes,
    /// Whatever is there.
    Anything,
}

/// Sizes before and after, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resized {
    /// Before.
    pub before: u64,
    /// After: what was asked for, rounded up to what the format can have.
    pub after: u64,
}

/// The size that `text` asks for, `+` and `-` being relative to `before`.
///
/// # Errors
/// Usage when it is no size.
pub fn wanted(text: &str, before: u64) -> Result<u64> {
    let wrong = || {
        Error::usage(format!("{text:?} is no size"))
            .hint("sizes are like 10G or 512M, relative ones like +2G or -2G")
    };
    let size = |digits: &str| rehost_image::parse_size(digits).ok_or_else(wrong);
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => before.checked_add(size(more)?).ok_or_else(wrong),
        (_, Some(less)) => before.checked_sub(size(less)?).ok_or_else(wrong),
        _ => size(text),
    }
}

/// Gives `image` the size `size`, under a journal. Its parents are left alone; what is new reads as
/// zeroes.
///
/// # Errors
/// Usage when something would be cut off that `shrinking` does not allow; otherwise as
/// [`in_place::change`] and [`resize`](rehost_image::LayerMut::resize).
pub fn resize(
    image: &Image,
    size: u64,
    shrinking: Shrinking,
    opener: &dyn Opener,
    cancel: &AtomicBool,
) -> Result<Resized> {
    let before = image.size();
    let layer = image
        .layers()
        .first()
        .ok_or_else(|| Error::internal("an image without a file"))?;
    if size < before {
        may_cut(image, size, shrinking, cancel).map_err(|error| error.in_file(&layer.path))?;
    }
    if size == before {
        return Ok(Resized {
            before,
            after: before,
        });
    }
    in_place::change(&layer.path, |journal| {
        let mut edited = in_place::open(journal, layer, opener)?;
        edited.resize(size)?;
        edited.flush()?;
        Ok(Resized {
            before,
            after: edited.size(),
        })
    })
}

fn may_cut(image: &Image, size: u64, shrinking: Shrinking, cancel: &AtomicBool) -> Result<()> {
    match shrinking {
        Shrinking::Anything => Ok(()),
        Shrinking::Refused => Err(Error::usage(format!(
            "{size} bytes are fewer than the disk has now"
        ))
        .hint("say --shrink if that is meant")),
        Shrinking::Zeroes => match first_set(&*image.disk(), size, cancel)? {
            None => Ok(()),
            Some(at) => Err(Error::usage("data would be cut off")
                .at(at)
                .hint("make the guest's last partition smaller first, or cut it with --force")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_relative() {
        assert_eq!(wanted("1M", 5).unwrap(), 1 << 20);
        assert_eq!(wanted("+1K", 5).unwrap(), 1029);
        assert_eq!(wanted("-5", 5).unwrap(), 0);
        for wrong in ["-6", "+", "", "1X", "+-1"] {
            assert!(wanted(wrong, 5).is_err(), "{wrong}");
        }
    }
}
