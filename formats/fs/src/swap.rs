//! Swap areas: what in them can be zeroed without losing the area itself.
//!
//! Source: Linux `include/linux/swap.h` (`union swap_header`) and `mkswap(8)`. The first page says what
//! it is, with UUID and label; everything behind it are pages of a machine that is off.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

const STRUCTURE: &str = "swap header";

/// The bytes of the swap area on `disk` behind its first page, up to where the area ends.
///
/// # Errors
/// Unsupported when it holds the image of a machine that sleeps (is hibernated), or is of the old kind
/// with a map of its pages; Corrupt when its header contradicts itself; Usage when it is none.
pub fn pages(disk: &Arc<dyn Disk>) -> Result<Range<u64>> {
    match crate::detect(disk)?.map(|kind| kind.name) {
        Some("swap") => {}
        Some("swsuspend") => {
            return Err(
                Error::unsupported("holds the memory of a hibernated machine")
                    .in_structure(STRUCTURE)
                    .hint("start that machine and shut it down"),
            );
        }
        _ => return Err(Error::usage("is no swap area")),
    }
    // The page size is that of the machine that made it.
    for page in [4096u64, 8192, 16_384, 65_536] {
        let mut raw = vec![0; usize::try_from(page).unwrap_or_default()];
        if disk.size() < page {
            break;
        }
        disk.read_at(&mut raw, 0)?;
        if !raw.ends_with(b"SWAPSPACE2") {
            continue;
        }
        let f = Fields::new(&raw, STRUCTURE, 0);
        // In the byte order of the machine that made it.
        let (little, big) = (f.u32_le(1024)?, f.u32_be(1024)?);
        let last = match (little, big) {
            (1, _) => f.u32_le(1028)?,
            (_, 1) => f.u32_be(1028)?,
            _ => return Err(f.unsupported(1024, format!("swap area of version {little}"))),
        };
        let end = u64::from(last).saturating_add(1).saturating_mul(page);
        if last == 0 {
            return Err(f.corrupt(1028, "a swap area without pages"));
        }
        return Ok(page..end.min(disk.size()).max(page));
    }
    Err(Error::unsupported("swap area of the old kind").in_structure(STRUCTURE))
}
