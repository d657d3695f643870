//! `base:allocation`: which stretches of the export hold data.

use rehost_block::{Disk, Error, Result, Run};

use crate::negotiate::Session;
use crate::reply::Replies;
use crate::wire::{BASE_ALLOCATION_ID, Request, chunk, cmd_flag, state};

/// Most extents in one reply (limit of ours; the client asks again from where it ends).
const EXTENTS_MAX: usize = 8192;

/// Answers a block status request, whose range has been checked.
pub(crate) fn answer(
    request: &Request,
    session: &Session<'_>,
    replies: &Replies<'_>,
) -> Result<()> {
    let most = if request.has(cmd_flag::REQ_ONE) {
        1
    } else {
        EXTENTS_MAX
    };
    let disk = session.export.disk();
    match extents(disk, request.offset, request.len, most) {
        Err(error) => replies.failed(request, error),
        Ok(extents) => {
            let mut payload = BASE_ALLOCATION_ID.to_be_bytes().to_vec();
            for (len, flags) in extents {
                payload.extend_from_slice(&len.to_be_bytes());
                payload.extend_from_slice(&flags.to_be_bytes());
            }
            replies.send_chunk(request, chunk::BLOCK_STATUS, chunk::DONE, &payload)
        }
    }
}

/// Lengths and states from `offset` on, neighbours of one state merged.
fn extents(disk: &dyn Disk, offset: u64, len: u32, most: usize) -> Result<Vec<(u32, u32)>> {
    let mut extents: Vec<(u32, u32)> = Vec::new();
    let mut at = offset;
    let mut left = len;
    // Ends because every run but an error is at least one byte long.
    while left > 0 {
        let located = disk.locate(at, u64::from(left))?;
        let run = u32::try_from(located.len).unwrap_or(left).min(left);
        if run == 0 {
            return Err(Error::internal("locate answered with an empty run").at(at));
        }
        let flags = match located.run {
            Run::Zero => state::HOLE | state::ZERO,
            _ => 0,
        };
        let full = extents.len() >= most;
        match extents.last_mut() {
            Some((len, last)) if *last == flags => *len = len.saturating_add(run),
            _ if full => break,
            _ => extents.push((run, flags)),
        }
        at = at.saturating_add(u64::from(run));
        left = left.saturating_sub(run);
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rehost_block::{DiskMut, Memory, Overlay, StorageDisk};

    use super::*;

    fn disk() -> Overlay {
        let base = StorageDisk::new(Arc::new(Memory::new("base", vec![1; 1 << 20])));
        let overlay = Overlay::in_memory(Arc::new(base));
        overlay.zero_at(0, 65_536).unwrap();
        overlay.zero_at(131_072, 4096).unwrap();
        overlay
    }

    #[test]
    fn extents_are_merged_and_cover_the_range() {
        let found = extents(&disk(), 0, 1 << 20, EXTENTS_MAX).unwrap();
        assert_eq!(found, [(65_536, 3), (65_536, 0), (4096, 3), (913_408, 0)]);
    }

    #[test]
    fn one_extent_is_never_longer_than_asked() {
        assert_eq!(extents(&disk(), 100, 50, 1).unwrap(), [(50, 3)]);
        assert_eq!(extents(&disk(), 65_000, 4096, 1).unwrap(), [(536, 3)]);
    }
}
