//! What FAT does not use: the clusters whose table entry is 0.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

use super::Fat;
use super::table::Link;
use crate::unused::push;

/// The byte ranges of `disk`, a FAT filesystem, that it does not use, in order.
pub(crate) fn unused(disk: Arc<dyn Disk>) -> Result<Vec<Range<u64>>> {
    let fs = Fat::open(disk)?;
    if !fs.is_clean()? {
        return Err(Error::unsupported("it was not unmounted cleanly")
            .in_structure("boot sector")
            .hint("run fsck.fat on a copy of the original"));
    }
    let mut free = Vec::new();
    for cluster in 2..fs.boot.end() {
        if fs.table.get(cluster)? == Link::Free {
            let start = fs.boot.offset(cluster);
            push(&mut free, start..start.saturating_add(fs.boot.cluster));
        }
    }
    Ok(free)
}
