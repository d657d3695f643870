//! Which legs of a raid1 volume hold all of its data: the superblocks that dm-raid keeps.
//!
//! After the description of the on-disk format in the kernel's `drivers/md/dm-raid.c`
//! (`struct dm_raid_superblock`). A volume that was never active has none, and all legs count.

use std::sync::Arc;

use rehost_block::{Disk, Error, Fields, Result};

const MAGIC: &[u8; 4] = b"DmRd";

/// Most legs that the bits for failed devices are read for.
const MOST_LEGS: usize = 64;

struct State {
    events: u64,
    failed: u64,
    recovered: bool,
    in_sync: bool,
}

/// Which legs can be relied upon.
pub(super) struct Complete {
    /// The numbers of those that hold everything.
    pub(super) legs: Vec<usize>,
    /// Why writing would not bring all legs into step, if so.
    pub(super) doubt: Option<&'static str>,
}

fn state(meta: &Arc<dyn Disk>) -> Result<Option<State>> {
    if meta.size() < 512 {
        return Ok(None);
    }
    let mut raw = [0; 512];
    meta.read_at(&mut raw, 0)?;
    let f = Fields::new(&raw, "dm-raid superblock", 0);
    if f.bytes(0, 4)? != MAGIC {
        return Ok(None);
    }
    Ok(Some(State {
        events: f.u64_le(16)?,
        failed: f.u64_le(24)?,
        recovered: f.u64_le(32)? == u64::MAX,
        in_sync: f.u64_le(40)? == u64::MAX,
    }))
}

/// The legs that hold everything, by the metadata of each (`None` where it is not to be had).
pub(super) fn complete(legs: &[Option<Arc<dyn Disk>>]) -> Result<Complete> {
    if legs.len() > MOST_LEGS {
        return Err(Error::unsupported("a raid1 volume has too many legs")
            .mismatch(format!("at most {MOST_LEGS}"), legs.len()));
    }
    let mut states = Vec::new();
    for meta in legs {
        states.push(match meta {
            Some(meta) => state(meta)?,
            None => None,
        });
    }
    let newest = states.iter().flatten().max_by_key(|state| state.events);
    let Some(newest) = newest else {
        return Ok(Complete {
            legs: (0..legs.len()).collect(),
            doubt: None,
        });
    };
    let chosen: Vec<usize> = states
        .iter()
        .enumerate()
        .filter(|(nth, state)| {
            let bit = u32::try_from(*nth)
                .ok()
                .and_then(|nth| 1u64.checked_shl(nth))
                .unwrap_or(0);
            state.as_ref().is_some_and(|state| {
                state.events == newest.events && state.recovered && newest.failed & bit == 0
            })
        })
        .map(|(nth, _)| nth)
        .collect();
    if chosen.is_empty() {
        return Err(Error::corrupt("no leg of a raid1 volume is complete")
            .in_structure("dm-raid superblock"));
    }
    let doubt = if chosen.len() < legs.len() {
        Some("a leg of the mirror is not complete")
    } else if !newest.in_sync {
        Some("the legs of the mirror are not in sync")
    } else {
        None
    };
    Ok(Complete {
        legs: chosen,
        doubt,
    })
}
