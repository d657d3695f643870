//! What need not be copied: bytes that the filesystems on a disk do not use, and the pages of swap areas.
//!
//! Partitions and what lies on them are found as `rehost_volume` finds them, and each filesystem says
//! what it does not use. Where that is on the disk is learned by asking the volume's own `locate` over a
//! disk that answers with its own offsets: so it holds for partitions and for logical volumes made of
//! plain stretches of them. Nothing is left out on arrays (their members must agree, and parity is
//! over unused bytes too), in encrypted volumes, in volume groups with snapshots, thin or mirrored
//! volumes (others see the same blocks), and where partitions overlap.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Blanked, Disk, DiskStorage, Error, Result, Run, Storage, StorageDisk};
use rehost_volume::stack::{Kind, Node, Stack};
use serde::Serialize;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What filesystems do not use.
    pub unused: bool,
    /// What swap areas hold.
    pub swap: bool,
}

/// What was left out of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The volume: `1` is a partition's number, `0` the whole disk, `vg/lv` a logical volume.
    pub volume: String,
    /// What it holds, as blkid names it.
    pub filesystem: String,
    /// Bytes that it does not use.
    pub unused_bytes: u64,
    /// Bytes of these that the source stores, and the copy leaves out.
    pub skipped_bytes: u64,
    /// Why nothing of it was left out, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_because: Option<String>,
}

/// A disk without what need not be copied, and what that is.
#[derive(Debug)]
pub struct Trimmed {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// What was left out, volume by volume.
    pub left: Vec<Left>,
}

/// Finds what of `disk` need not be copied.
///
/// What cannot be read or is in doubt is kept, with the reason.
///
/// # Errors
/// As reading the disk, where not even its partitions can be found.
pub fn trim(disk: &Arc<dyn Disk>, wanted: Wanted) -> Result<Trimmed> {
    let own: Arc<dyn Storage> = Arc::new(DiskStorage::new("disk", Arc::clone(disk)));
    let asked: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::clone(&own)));
    let stack = Stack::find(&[("0".to_owned(), Arc::clone(&asked))], &[])?;
    let overlap = overlapping(&asked)?;
    let mut found: Vec<(Left, Vec<Range<u64>>)> = Vec::new();
    for (node, volume) in stack.open() {
        let Some(kind) = rehost_fs::detect(volume)? else {
            continue;
        };
        let mut left = Left {
            volume: node.name.clone(),
            filesystem: kind.name.to_owned(),
            unused_bytes: 0,
            skipped_bytes: 0,
            kept_because: None,
        };
        let swap = matches!(kind.name, "swap" | "swsuspend");
        if !(if swap { wanted.swap } else { wanted.unused }) {
            continue;
        }
        let ranges = shared(&stack, node)
            .or_else(|| overlap.clone())
            .map_or_else(|| unused(volume, swap), |why| Err(Error::unsupported(why)))
            .and_then(|unused| {
                left.unused_bytes = unused.iter().map(|range| range.end - range.start).sum();
                on_disk(volume, &unused, &own)
            });
        let ranges = match ranges {
            Ok(ranges) => ranges,
            Err(error) => {
                left.unused_bytes = 0;
                left.kept_because = Some(error.to_string());
                Vec::new()
            }
        };
        left.skipped_bytes = ranges.iter().map(|range| range.end - range.start).sum();
        found.push((left, ranges));
    }
    let mut left = Vec::new();
    let mut ranges = Vec::new();
    for (one, parts) in found {
        left.push(one);
        ranges.extend(parts);
    }
    if let Some(at) = twice(&mut ranges) {
        // Two volumes that both call a byte unused are on top of each other.
        for one in left.iter_mut().filter(|one| one.skipped_bytes > 0) {
            one.skipped_bytes = 0;
            one.kept_because = Some(format!("volumes overlap at byte {at}"));
        }
        ranges.clear();
    }
    Ok(Trimmed {
        disk: Arc::new(Blanked::new(Arc::clone(disk), ranges)?),
        left,
    })
}

fn unused(volume: &Arc<dyn Disk>, swap: bool) -> Result<Vec<Range<u64>>> {
    if swap {
        Ok(vec![rehost_fs::swap::pages(volume)?])
    } else {
        rehost_fs::unused(volume)
    }
}

/// Why bytes of the volume `node` may be somebody else's too, if so.
fn shared(stack: &Stack, node: &Node) -> Option<String> {
    let mut waiting = vec![node];
    // Ends because parents come before what lies on them.
    while let Some(node) = waiting.pop() {
        match node.kind {
            Kind::Disk | Kind::Part => {}
            Kind::Raid => return Some("it lies on an array".to_owned()),
            Kind::Crypt => return Some("it lies in an encrypted volume".to_owned()),
            Kind::Lvm => {
                if let Some(other) = beside(stack, node) {
                    return Some(format!(
                        "its volume group has {} of type {}",
                        other.name,
                        other.form.as_deref().unwrap_or("unknown")
                    ));
                }
            }
        }
        waiting.extend(node.parents.iter().filter_map(|nth| stack.nodes.get(*nth)));
    }
    None
}

/// A logical volume in the group of `node` that is not made of plain stretches.
fn beside<'a>(stack: &'a Stack, node: &Node) -> Option<&'a Node> {
    let group = |node: &Node| node.name.split('/').next().map(str::to_owned);
    stack.nodes.iter().find(|other| {
        let plain = matches!(other.form.as_deref(), Some("linear" | "striped"));
        other.kind == Kind::Lvm && group(other) == group(node) && !plain
    })
}

/// Why no partition's bytes are its own, if so.
fn overlapping(disk: &Arc<dyn Disk>) -> Result<Option<String>> {
    let layout = rehost_volume::scan(disk)?;
    let mut parts: Vec<_> = layout
        .volumes
        .iter()
        .filter(|volume| !matches!(volume.kind.as_str(), "0x5" | "0xf" | "0x85"))
        .map(|volume| (volume.range.clone(), volume.number))
        .collect();
    parts.sort_by_key(|(range, _)| range.start);
    let found = parts
        .windows(2)
        .find(|pair| matches!(pair, [(first, _), (second, _)] if second.start < first.end));
    Ok(found.and_then(|pair| match pair {
        [(_, first), (_, second)] => Some(format!("partitions {first} and {second} overlap")),
        _ => None,
    }))
}

/// Where `ranges` of `volume` are stored on the disk that is `own`.
fn on_disk(
    volume: &Arc<dyn Disk>,
    ranges: &[Range<u64>],
    own: &Arc<dyn Storage>,
) -> Result<Vec<Range<u64>>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let mut at = range.start;
        // Ends because every answer covers at least one byte.
        while at < range.end {
            let located = volume.locate(at, range.end - at)?;
            match &located.run {
                Run::At { storage, offset } if Arc::ptr_eq(storage, own) => {
                    let end = offset + located.len;
                    match found.last_mut() {
                        Some(last) if last.end == *offset => last.end = end,
                        _ => found.push(*offset..end),
                    }
                }
                // Nothing is stored there anyway.
                Run::Zero => {}
                _ => {
                    return Err(Error::unsupported(
                        "its bytes are not stored as they are on the disk",
                    ));
                }
            }
            at += located.len.max(1);
        }
    }
    Ok(found)
}

/// Sorts `ranges`; gives the first byte that is in two of them.
fn twice(ranges: &mut [Range<u64>]) -> Option<u64> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.windows(2).find_map(|pair| match pair {
        [first, second] if second.start < first.end => Some(second.start),
        _ => None,
    })
}
