//! What the members of an array make together, by level.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rehost_block::{Error, Result};

use super::array::{Member, uuid_text};
use super::parity::{Layout, Parity, Rebuilt, Stripes};
use super::superblock::Superblock;
use super::ten::{Copies, Geometry};
use crate::backing::Backing;
use crate::mapped::{Dealt, Joined, Mapped, Piece, Plan, amount};

/// The members that can be relied upon, by slot.
pub(super) type Slots<'a> = Vec<Option<&'a Member>>;

/// The array's bytes.
pub(super) fn build(sb: &Superblock, slots: Slots<'_>) -> Result<Backing> {
    if let Some(why) = sb.refusal {
        return Err(Error::unsupported(format!("the array {why}"))
            .in_structure("MD superblock")
            .at(sb.at));
    }
    let parts: Vec<Option<(Backing, u64)>> = slots
        .iter()
        .map(|slot| slot.map(|member| (member.backing.clone(), member.sb.data_offset)))
        .collect();
    let gone: Vec<String> = (0..)
        .zip(&parts)
        .filter(|(_, part)| part.is_none())
        .map(|(nth, _): (usize, _)| nth.to_string())
        .collect();
    let chunked = sb.chunk != 0 && sb.chunk.is_multiple_of(512);
    if matches!(sb.level, 0 | 4 | 5 | 6 | 10) && !chunked {
        return Err(broken(sb, "the chunk size is impossible").mismatch("512 or more", sb.chunk));
    }
    match sb.level {
        -1 | 0 => {
            if !gone.is_empty() {
                return Err(lost(sb, &gone));
            }
            let members: Vec<&Member> = slots.into_iter().flatten().collect();
            let joined = if sb.level == 0 {
                zones(sb, &members)?
            } else {
                linear(&members)?
            };
            Ok(joined.into_backing())
        }
        1 => {
            let there: Vec<(Backing, u64)> = parts.into_iter().flatten().collect();
            if there.is_empty() {
                return Err(lost(sb, &gone));
            }
            let mut joined = Joined::new();
            joined.push(Piece::Part(there), sb.size)?;
            Ok(joined.into_backing())
        }
        4..=6 => striped(sb, parts, &gone),
        10 => {
            let layout = sb.layout.unwrap_or(0);
            let geometry = Geometry::new(layout, u64::from(sb.members), sb.chunk, sb.size)
                .ok_or_else(|| unknown_layout(sb))?;
            let there = |slot: u64| {
                let slot = usize::try_from(slot).ok();
                slot.is_some_and(|slot| parts.get(slot).is_some_and(Option::is_some))
            };
            if geometry.lost(there).is_some() {
                return Err(lost(sb, &gone));
            }
            let disk = Arc::new(Mapped(Copies {
                geometry,
                members: parts,
            }));
            Ok(Backing::made_of(Arc::clone(&disk), disk.0.members()))
        }
        _ => Err(
            Error::unsupported(format!("arrays of {} cannot be read", level_name(sb.level)))
                .in_structure("MD superblock")
                .at(sb.at),
        ),
    }
}

fn striped(
    sb: &Superblock,
    members: Vec<Option<(Backing, u64)>>,
    gone: &[String],
) -> Result<Backing> {
    let layout = Layout {
        level: sb.level,
        number: sb.layout.unwrap_or(0),
        members: u64::from(sb.members),
    };
    let spare = if sb.level == 6 { 2 } else { 1 };
    // Three members at least for two parities; a RAID 5 of two is a mirror with a parity.
    if sb.members <= spare || layout.spot(0, 0).is_none() {
        return Err(unknown_layout(sb));
    }
    if amount(gone.len()) > u64::from(spare) {
        return Err(lost(sb, gone));
    }
    if !gone.is_empty() && !sb.in_sync {
        return Err(
            broken(sb, "the array lacks members and its parity is not in sync")
                .hint("assemble it with mdadm --force on a copy of its disks first"),
        );
    }
    let rows = sb.size.checked_div(sb.chunk).unwrap_or(0);
    let size = rows
        .checked_mul(sb.chunk)
        .and_then(|each| each.checked_mul(layout.data()))
        .ok_or_else(|| broken(sb, "the array is larger than any disk"))?;
    let stripes = Arc::new(Stripes {
        layout,
        chunk: sb.chunk,
        size,
        members,
    });
    let rebuilt = Arc::new(Rebuilt {
        name: PathBuf::from(format!("md array {}", uuid_text(&sb.uuid))),
        stripes: Arc::clone(&stripes),
    });
    let disk = Arc::new(Mapped(Parity {
        stripes,
        rebuilt,
        writing: Mutex::new(()),
    }));
    Ok(Backing::made_of(Arc::clone(&disk), disk.0.members()))
}

fn linear(members: &[&Member]) -> Result<Joined> {
    let mut joined = Joined::new();
    for member in members {
        let sb = &member.sb;
        let whole = whole_chunks(sb.data_size, sb.chunk);
        let part = (member.backing.clone(), sb.data_offset);
        joined.push(Piece::Part(vec![part]), whole)?;
    }
    Ok(joined)
}

fn whole_chunks(len: u64, chunk: u64) -> u64 {
    len.saturating_sub(len.checked_rem(chunk).unwrap_or(0))
}

/// RAID 0: as long as all members last, then over those that are longer, and so on.
fn zones(sb: &Superblock, members: &[&Member]) -> Result<Joined> {
    let size = |member: &Member| whole_chunks(member.sb.data_size, sb.chunk);
    let mut joined = Joined::new();
    let mut start = 0u64;
    // Ends because `start` grows to the next larger member in every round.
    loop {
        let rest: Vec<&&Member> = members.iter().filter(|one| size(one) > start).collect();
        let Some(end) = rest.iter().map(|one| size(one)).min() else {
            return Ok(joined);
        };
        if start > 0 && !matches!(sb.layout, Some(1 | 2)) {
            return Err(Error::unsupported(
                "a raid0 of unequal members that does not say which layout it has",
            )
            .in_structure("MD superblock")
            .at(sb.at)
            .hint("kernels before and after 3.14 laid it out differently"));
        }
        let mut parts: Vec<(Backing, u64)> = rest
            .iter()
            .map(|one| {
                let from = one.sb.data_offset.saturating_add(start);
                (one.backing.clone(), from)
            })
            .collect();
        // The original layout counts chunks from the start of the array, not of the zone.
        if sb.layout == Some(1) {
            let before = joined.len().checked_div(sb.chunk).unwrap_or(0);
            let turn = before.checked_rem(amount(parts.len())).unwrap_or(0);
            parts.rotate_left(usize::try_from(turn).unwrap_or(0));
        }
        let len = end
            .saturating_sub(start)
            .checked_mul(amount(parts.len()))
            .ok_or_else(|| broken(sb, "the array is larger than any disk"))?;
        let chunk = sb.chunk;
        joined.push(Piece::Dealt(Dealt { parts, chunk }), len)?;
        start = end;
    }
}

pub(super) fn broken(sb: &Superblock, what: &str) -> Error {
    Error::corrupt(what).in_structure("MD superblock").at(sb.at)
}

fn unknown_layout(sb: &Superblock) -> Error {
    Error::unsupported(format!(
        "layout {:#x} of {} with {} members",
        sb.layout.unwrap_or(0),
        level_name(sb.level),
        sb.members
    ))
    .in_structure("MD superblock")
    .at(sb.at)
}

fn lost(sb: &Superblock, gone: &[String]) -> Error {
    Error::usage(format!(
        "too few members of the {}: slots {} of {} are not there",
        level_name(sb.level),
        gone.join(", "),
        sb.members
    ))
    .in_structure("MD array")
    .hint("give all disks of the machine together")
}

pub(super) fn level_name(level: i32) -> String {
    match level {
        -1 => "linear".to_owned(),
        level if level >= 0 => format!("raid{level}"),
        level => format!("level {level}"),
    }
}
