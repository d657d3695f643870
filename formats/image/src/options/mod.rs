//! What a target of each format can be asked for: plain values, and the `KEY=VALUE` words that set
//! them (`-o` on the command line, options in a manifest).
//!
//! The words are qemu-img's where it has one for the same thing. Each format's values and their
//! table are in a file of their own; nothing here knows a byte of any format.

mod compression;
mod leveled;
mod qcow2;
mod raw;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod wrap;

use std::path::Path;

use rehost_block::{Error, Result};
use serde::Serialize;

pub use compression::Compression;
pub use qcow2::{Compat, Qcow2Options};
pub use raw::RawOptions;
pub use vdi::{VdiKind, VdiOptions};
pub use vhd::{VhdKind, VhdOptions};
pub use vhdx::{VhdxOptions, VhdxSubformat};
pub use vmdk::{Adapter, VmdkKind, VmdkOptions};
pub use wrap::Wrap;

use crate::Format;

/// One option of a format, for help texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OptionDescription {
    /// The word before the `=`.
    pub name: &'static str,
    /// What may stand behind it.
    pub values: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, one sentence.
    pub about: &'static str,
}

/// How much room a target takes at once, before data needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// None: the file grows with what is stored.
    #[default]
    Off,
    /// The tables are all there, the room for data is a hole (qcow2 only).
    Metadata,
    /// The file system reserves all room.
    Falloc,
    /// All room is written with zeroes.
    Full,
}

/// The options of a target, which also say its format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "format", rename_all = "lowercase")]
pub enum TargetOptions {
    /// Of a raw image.
    Raw(RawOptions),
    /// Of a qcow2 image.
    Qcow2(Qcow2Options),
    /// Of a VMDK.
    Vmdk(VmdkOptions),
    /// Of a VHD.
    Vhd(VhdOptions),
    /// Of a VHDX.
    Vhdx(VhdxOptions),
    /// Of a VDI.
    Vdi(VdiOptions),
}

impl TargetOptions {
    /// The defaults of `format`.
    ///
    /// # Errors
    /// Usage for a format that is not written.
    pub fn new(format: Format) -> Result<Self> {
        Ok(match format {
            Format::Raw => Self::Raw(RawOptions::default()),
            Format::Qcow2 => Self::Qcow2(Qcow2Options::default()),
            Format::Vmdk => Self::Vmdk(VmdkOptions::default()),
            Format::Vhd => Self::Vhd(VhdOptions::default()),
            Format::Vhdx => Self::Vhdx(VhdxOptions::default()),
            Format::Vdi => Self::Vdi(VdiOptions::default()),
            Format::Parallels | Format::Qed | Format::Qcow => {
                return Err(
                    Error::usage(format!("{format} images are read, not written"))
                        .hint("formats that are written: raw, qcow2, vmdk, vhd, vhdx, vdi"),
                );
            }
        })
    }

    /// Asks for the wrapper that the suffix of a target's name stands for: `disk.raw.gz`.
    ///
    /// # Errors
    /// Usage for a wrapper or a format inside one that is not written.
    pub fn wrap_by_name(&mut self, name: &Path) -> Result<()> {
        let Some(wrap) = Wrap::of_name(name)? else {
            return Ok(());
        };
        if let Self::Raw(options) = self {
            options.wrap = Some(wrap);
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} images are not written in {wrap}, which the suffix asks for",
            self.format()
        ))
        .in_file(name)
        .hint("choose another name, or write a raw image"))
    }

    /// The format they belong to.
    #[must_use]
    pub const fn format(&self) -> Format {
        match self {
            Self::Raw(_) => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
            Self::Vmdk(_) => Format::Vmdk,
            Self::Vhd(_) => Format::Vhd,
            Self::Vhdx(_) => Format::Vhdx,
            Self::Vdi(_) => Format::Vdi,
        }
    }

    /// Every option there is for `format`.
    #[must_use]
    pub const fn known(&self) -> &'static [OptionDescription] {
        match self {
            Self::Raw(_) => RawOptions::KNOWN,
            Self::Qcow2(_) => Qcow2Options::KNOWN,
            Self::Vmdk(_) => VmdkOptions::KNOWN,
            Self::Vhd(_) => VhdOptions::KNOWN,
            Self::Vhdx(_) => VhdxOptions::KNOWN,
            Self::Vdi(_) => VdiOptions::KNOWN,
        }
    }

    /// Sets options from words like `cluster_size=2M`, several with commas between them.
    ///
    /// # Errors
    /// Usage, naming what is known, for a word without `=`, an unknown option or an impossible
    /// value.
    pub fn parse(&mut self, words: &str) -> Result<()> {
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or_else(|| {
                Error::usage(format!("{word:?} is no option")).hint("options are NAME=VALUE")
            })?;
            let known = self.known().iter().find(|option| option.name == name);
            let Some(option) = known else {
                return Err(self.unknown(name));
            };
            let understood = match self {
                Self::Raw(options) => options.set(name, value),
                Self::Qcow2(options) => options.set(name, value),
                Self::Vmdk(options) => options.set(name, value),
                Self::Vhd(options) => options.set(name, value),
                Self::Vhdx(options) => options.set(name, value),
                Self::Vdi(options) => options.set(name, value),
            };
            if understood.is_none() {
                return Err(Error::usage(format!("option {name} cannot be {value:?}"))
                    .hint(format!("{name} is one of: {}", option.values)));
            }
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self.known().iter().map(|option| option.name).collect();
        let format = self.format();
        Error::usage(format!("{format} has no option {name:?}")).hint(if names.is_empty() {
            format!("{format} has no options")
        } else {
            format!("options of {format}: {}", names.join(", "))
        })
    }
}

impl Preallocation {
    /// By its word.
    fn parse(value: &str) -> Option<Self> {
        match value {
            "off" => Some(Self::Off),
            "metadata" => Some(Self::Metadata),
            "falloc" => Some(Self::Falloc),
            "full" => Some(Self::Full),
            _ => None,
        }
    }
}

/// `on` or `off`.
fn switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// A number of bytes, with a suffix of 1024s: `512`, `64K`, `2M`, `1G`, `1T`.
///
/// Public because sizes on the command line are written like that everywhere.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let suffix = text.get(digits.len()..)?;
    let unit: u64 = match suffix.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        "T" | "TIB" => 1 << 40,
        "P" | "PIB" => 1 << 50,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A size that fits 32 bits.
fn small_size(value: &str) -> Option<u32> {
    parse_size(value).and_then(|size| u32::try_from(size).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_of_1024s() {
        let sizes = [
            ("512", Some(512)),
            ("64K", Some(65_536)),
            ("64k", Some(65_536)),
            ("2MiB", Some(2 << 20)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("K", None),
            ("1.5G", None),
            ("-1", None),
            ("99999999999T", None),
        ];
        for (text, size) in sizes {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }

    #[test]
    fn unknown_options_and_values_say_what_is_known() {
        let mut options = TargetOptions::new(Format::Qcow2).unwrap();
        let mut refused = |words: &str| options.parse(words).unwrap_err().to_string();
        let unknown = refused("clustersize=1M");
        assert!(unknown.contains("cluster_size"), "{unknown}");
        let value = refused("compat=7");
        assert!(value.contains("0.10"), "{value}");
        let word = refused("lazy_refcounts");
        assert!(word.contains("NAME=VALUE"), "{word}");
    }

    #[test]
    fn several_options_stand_in_one_word() {
        let mut options = TargetOptions::new(Format::Qcow2).unwrap();
        options.parse("cluster_size=2M,compat=0.10").unwrap();
        let expected = Qcow2Options {
            cluster_size: Some(2 << 20),
            compat: Compat::V2,
            ..Qcow2Options::default()
        };
        assert_eq!(options, TargetOptions::Qcow2(expected));
    }
}
