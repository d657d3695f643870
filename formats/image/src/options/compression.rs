//! `CODEC[:LEVEL]`: how the units of a target are compressed.

use std::fmt;
use std::str::FromStr;

use rehost_block::{Error, Result};
use serde::Serialize;

use super::leveled::Leveled;

/// How the units of a target are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Deflate, level 1 (fast) to 9 (small).
    Zlib(u8),
    /// Zstandard, level 1 (fast) to 22 (small).
    Zstd(u8),
}

impl Compression {
    /// The codec's name in options and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zlib(_) => "zlib",
            Self::Zstd(_) => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let asked = Leveled::parse(text);
        let codec = asked.name;
        match codec {
            "zlib" => asked.level(6, 9).map(Self::Zlib),
            "zstd" => asked.level(3, 22).map(Self::Zstd),
            _ => {
                Err(Error::usage(format!("unknown codec {codec:?}"))
                    .hint("known codecs: zlib, zstd"))
            }
        }
    }
}
