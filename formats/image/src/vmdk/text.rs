//! The descriptor that the writers make.
//!
//! VMware "Virtual Disk Format 5.0", "The Descriptor File". The order of its parts, the words and
//! the blanks are those of VMware's own, because importers are known to be picky.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher;

use rehost_block::{Error, Result};

use super::SECTOR;
use super::descriptor::MAX_DESCRIPTOR;
use crate::create::{TargetBacking, TargetSpec};
use crate::details::Details;
use crate::options::{Adapter, VmdkOptions};

/// Sectors kept for an embedded descriptor. VMware's and QEMU's number.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// `ddb.virtualHWVersion` when none is asked for: what ESXi and Workstation of the last fifteen
/// years read, and new enough for every adapter there is.
const HARDWARE_VERSION: u32 = 8;

/// Heads, sectors per track and the most cylinders: the BIOS's view of a SCSI disk, and ATA's limit
/// of 16,383 cylinders.
const fn geometry(adapter: Adapter) -> (u64, u64, u64) {
    match adapter {
        Adapter::Ide => (16, 63, 16_383),
        Adapter::LsiLogic | Adapter::BusLogic | Adapter::Pvscsi | Adapter::LegacyEsx => {
            (255, 63, 0xffff_ffff)
        }
    }
}

/// The cylinders that a disk of `sectors` has with `heads` and `track` sectors per track.
pub(super) fn cylinders(sectors: u64, heads: u64, track: u64, most: u64) -> u64 {
    sectors
        .checked_div(heads.saturating_mul(track))
        .unwrap_or(0)
        .clamp(1, most.max(1))
}

/// One extent line to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// Its length in sectors.
    pub(super) sectors: u64,
    /// `SPARSE` or `FLAT`.
    pub(super) kind: &'static str,
    /// The file that it is in.
    pub(super) file: String,
}

impl ExtentLine {
    /// The line, as it stands in the descriptor.
    pub(super) fn text(&self) -> String {
        let Self {
            sectors,
            kind,
            file,
        } = self;
        // Only flat extents have an offset.
        let offset = if *kind == "FLAT" { " 0" } else { "" };
        format!("RW {sectors} {kind} \"{file}\"{offset}")
    }
}

/// The descriptor of a new disk of `extents`, without padding.
///
/// # Errors
/// Usage when a name cannot stand in a descriptor, or the parent is no VMDK.
pub(super) fn descriptor(
    spec: &TargetSpec,
    options: &VmdkOptions,
    create_type: &str,
    extents: &[ExtentLine],
) -> Result<String> {
    let sectors = extents
        .iter()
        .fold(0u64, |sum, extent| sum.saturating_add(extent.sectors));
    let cid = fresh_cid();
    let mut text = format!("# Disk DescriptorFile\nversion=1\nCID={cid:08x}\n");
    match &spec.backing {
        None => text.push_str("parentCID=ffffffff\n"),
        Some(backing) => {
            let (parent, _) = parent_lines(backing)?;
            text.push_str(&parent);
        }
    }
    text.push_str(&format!("createType=\"{create_type}\"\n"));
    if let Some(backing) = &spec.backing {
        let (_, hint) = parent_lines(backing)?;
        text.push_str(&hint);
    }
    text.push_str("\n# Extent description\n");
    for extent in extents {
        check_name(&extent.file)?;
        text.push_str(&extent.text());
        text.push('\n');
    }
    let (heads, track, most) = geometry(options.adapter);
    let cylinders = cylinders(sectors, heads, track, most);
    let adapter = options.adapter.as_str();
    let hardware = options.hardware_version.unwrap_or(HARDWARE_VERSION);
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "\n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"{adapter}\"\n\
         ddb.encoding = \"UTF-8\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{track}\"\n\
         ddb.toolsVersion = \"2147483647\"\n\
         ddb.virtualHWVersion = \"{hardware}\"\n"
    );
    if super::amount(text.len()) > MAX_DESCRIPTOR {
        return Err(Error::usage("disk has too many extents for a descriptor")
            .hint("choose a kind of VMDK that is one file"));
    }
    Ok(text)
}

/// `text` padded to the room of an embedded descriptor.
///
/// # Errors
/// Usage when it does not fit.
pub(super) fn embedded(text: String) -> Result<Vec<u8>> {
    let mut bytes = text.into_bytes();
    let room = super::length(DESCRIPTOR_SECTORS.saturating_mul(SECTOR))?;
    if bytes.len() > room {
        return Err(Error::usage("names are too long for a VMDK descriptor"));
    }
    bytes.resize(room, 0);
    Ok(bytes)
}

/// The `parentCID` and `parentFileNameHint` lines of a child of `backing`.
///
/// # Errors
/// Usage when it is no VMDK or its name cannot stand in a descriptor.
pub(super) fn parent_lines(backing: &TargetBacking) -> Result<(String, String)> {
    let Details::Vmdk(details) = &backing.details else {
        return Err(Error::usage(format!(
            "the parent of a VMDK must be a VMDK, and {} is {}",
            backing.name.display(),
            backing.format
        ))
        .hint("write qcow2, whose parents may be of any format, or leave the parent out"));
    };
    let hint = backing
        .name
        .to_str()
        .filter(|hint| !hint.is_empty() && !hint.contains(['"', '\n', '\r', '\0']))
        .ok_or_else(|| unquotable(&backing.name.to_string_lossy()))?;
    Ok((
        format!("parentCID={:08x}\n", details.cid),
        format!("parentFileNameHint=\"{hint}\"\n"),
    ))
}

/// Refuses a name that would break out of its quotes or its folder.
///
/// # Errors
/// Usage.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['"', '\n', '\r', '\0', '/']) {
        return Err(unquotable(name));
    }
    Ok(())
}

fn unquotable(name: &str) -> Error {
    Error::usage(format!(
        "{name:?} cannot be the name of a VMDK: a descriptor repeats it in quotes"
    ))
    .hint("choose a name without quotes, slashes and line ends")
}

/// A content identifier that no other disk is likely to have, and none of those that mean "no
/// parent" and "see the long one". Identity, not secrecy: the hasher's seed is random enough.
pub(super) fn fresh_cid() -> u32 {
    let seed = RandomState::new().hash_one(std::process::id());
    let [a, b, c, d, ..] = seed.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).min(u32::MAX.saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::{Descriptor, ExtentKind};
    use super::*;
    use crate::Format;

    fn made(file: &str) -> Result<String> {
        let spec = TargetSpec::new(Format::Vmdk, 4096 * 512, file).unwrap();
        let options = VmdkOptions {
            adapter: Adapter::Ide,
            ..VmdkOptions::default()
        };
        let extent = ExtentLine {
            sectors: 4096,
            kind: "SPARSE",
            file: file.to_owned(),
        };
        descriptor(&spec, &options, "streamOptimized", &[extent])
    }

    #[test]
    fn our_own_parser_reads_it() {
        let text = embedded(made("a disk.vmdk").unwrap()).unwrap();
        let parsed = Descriptor::parse(&text, 512).unwrap();
        assert_eq!(parsed.create_type, "streamOptimized");
        assert_eq!(parsed.size().unwrap(), 4096 * 512);
        assert_eq!(parsed.adapter.as_deref(), Some("ide"));
        assert_eq!(parsed.parent, None);
        assert_eq!(
            parsed.extents[0].kind,
            ExtentKind::Sparse {
                file: "a disk.vmdk".into()
            }
        );
    }

    #[test]
    fn a_name_that_would_break_out_of_its_quotes_is_refused() {
        for name in ["", "a\"b", "a\nRW 8 ZERO", "../x"] {
            assert!(made(name).is_err());
        }
    }
}
