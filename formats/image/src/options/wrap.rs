//! What raw targets can be wrapped in.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rehost_block::{Error, Result};
use serde::Serialize;

use super::leveled::Leveled;

/// What a target is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrap {
    /// gzip, level 1 (fast) to 12 (small).
    Gzip(u8),
    /// Zstandard, level 1 (fast) to 22 (small).
    Zstd(u8),
}

impl FromStr for Wrap {
    type Err = Error;

    /// `gz`, `zst`, or either with `:LEVEL`.
    fn from_str(text: &str) -> Result<Self> {
        let asked = Leveled::parse(text);
        let name = asked.name;
        match name.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => asked.level(6, 12).map(Self::Gzip),
            "zst" | "zstd" => asked.level(3, 22).map(Self::Zstd),
            _ => Err(
                Error::usage(format!("{name:?} is no wrapper that is written"))
                    .hint("wrappers that are written: gz, zst"),
            ),
        }
    }
}

impl fmt::Display for Wrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        })
    }
}

impl Wrap {
    /// What the suffix of a target's name asks for.
    ///
    /// # Errors
    /// Usage for the suffix of a wrapper that is read and not written.
    pub(crate) fn of_name(name: &Path) -> Result<Option<Self>> {
        let suffix = name.extension().and_then(|suffix| suffix.to_str());
        match suffix.map(str::to_ascii_lowercase).as_deref() {
            Some(suffix @ ("gz" | "zst")) => suffix.parse().map(Some),
            Some(suffix @ ("xz" | "bz2")) => {
                Err(Error::usage(format!("{suffix} is read, not written"))
                    .in_file(name)
                    .hint("wrappers that are written: gz, zst"))
            }
            _ => Ok(None),
        }
    }
}
