//! The descriptor that the writers embed.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use rehost_block::{Error, Result};

use super::SECTOR;
use crate::options::Adapter;

/// Sectors kept for an embedded descriptor. VMware's and QEMU's number.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

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

/// The descriptor of a disk that is one sparse file called `name`, padded to its sectors.
///
/// # Errors
/// Usage when `name` cannot stand in a descriptor.
pub(super) fn descriptor(
    create_type: &str,
    name: &str,
    sectors: u64,
    adapter: Adapter,
) -> Result<Vec<u8>> {
    if name.is_empty() || name.contains(['"', '\n', '\r', '\0', '/']) {
        return Err(Error::usage(format!(
            "{name:?} cannot be the name of a VMDK: its descriptor repeats it in quotes"
        ))
        .hint("choose a name without quotes, slashes and line ends"));
    }
    let (heads, track, most) = geometry(adapter);
    let cylinders = sectors
        .checked_div(heads.saturating_mul(track))
        .unwrap_or(0)
        .clamp(1, most);
    let cid = fresh_cid();
    let adapter = adapter.as_str();
    let text = format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={cid:08x}\n\
         parentCID=ffffffff\n\
         createType=\"{create_type}\"\n\
         \n\
         # Extent description\n\
         RW {sectors} SPARSE \"{name}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"{adapter}\"\n\
         ddb.encoding = \"UTF-8\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{track}\"\n\
         ddb.toolsVersion = \"2147483647\"\n\
         ddb.virtualHWVersion = \"8\"\n"
    );
    let mut bytes = text.into_bytes();
    let room = super::length(DESCRIPTOR_SECTORS.saturating_mul(SECTOR))?;
    if bytes.len() > room {
        return Err(Error::usage("name is too long for a VMDK descriptor"));
    }
    bytes.resize(room, 0);
    Ok(bytes)
}

/// A content identifier that no other disk is likely to have, and not the one that means "no
/// parent". Identity, not secrecy: the hasher's seed is random enough.
fn fresh_cid() -> u32 {
    let seed = RandomState::new().hash_one(std::process::id());
    let [a, b, c, d, ..] = seed.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).min(u32::MAX.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::{Descriptor, ExtentKind};
    use super::*;

    #[test]
    fn our_own_parser_reads_it() {
        let text = descriptor("streamOptimized", "a disk.vmdk", 4096, Adapter::Ide).unwrap();
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
            assert!(descriptor("x", name, 8, Adapter::LsiLogic).is_err());
        }
    }
}
