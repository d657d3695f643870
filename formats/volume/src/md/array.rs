//! Arrays put together from the members on several disks.
//!
//! The member with the highest event count speaks for the array; members that fell behind it by
//! more than the one event that a crash may cost (the kernel's own rule) are left out and named.

use std::sync::Arc;

use rehost_block::{Result, Window};

use super::build::{Slots, broken, build, level_name};
use super::superblock::{Role, Superblock, read};
use crate::backing::Backing;

/// Members of an array. MD's own limit is 1920; each that is missing is named.
const MOST_SLOTS: u32 = 1920;

/// A disk, partition or volume that is a member of an array.
#[derive(Debug)]
pub struct Member {
    pub(super) sb: Superblock,
    pub(super) backing: Backing,
}

impl Member {
    /// Reads the superblock of `disk`, which is given for reading or for writing; `None` when it
    /// has none.
    ///
    /// # Errors
    /// Corrupt when there is one and it contradicts itself, Unsupported when it asks for features
    /// that are not known; otherwise as reading the disk.
    pub fn read(disk: impl Into<Backing>) -> Result<Option<Self>> {
        let backing = disk.into();
        Ok(read(backing.disk())?.map(|sb| Self { sb, backing }))
    }

    /// The array's UUID, as blkid prints it.
    #[must_use]
    pub fn uuid(&self) -> String {
        uuid_text(&self.sb.uuid)
    }

    /// The version of its superblock: `0.90`, `1.0`, `1.1` or `1.2`.
    #[must_use]
    pub const fn version(&self) -> &'static str {
        self.sb.version
    }
}

/// An array.
#[derive(Debug)]
pub struct Array {
    /// Its UUID, as blkid prints it.
    pub uuid: String,
    /// Its name (`host:0`), where the superblock keeps one.
    pub name: Option<String>,
    /// `raid1`, `raid5`, `linear` …
    pub level: String,
    /// Members that it is made of.
    pub slots: u32,
    /// Which of the members given belong to it, whether they are read or not.
    pub members: Vec<usize>,
    /// What is missing or was left out, one sentence each.
    pub damage: Vec<String>,
    /// Its bytes, or why they cannot be read. They can be written where all members are there, in
    /// step, and were given for writing.
    pub disk: Result<Backing>,
}

/// Puts the arrays of `members` together, in the order in which they are met.
#[must_use]
pub fn assemble(members: &[Member]) -> Vec<Array> {
    let mut order: Vec<[u8; 16]> = Vec::new();
    for member in members {
        if !order.contains(&member.sb.uuid) {
            order.push(member.sb.uuid);
        }
    }
    order
        .into_iter()
        .filter_map(|uuid| {
            let own: Vec<(usize, &Member)> = members
                .iter()
                .enumerate()
                .filter(|(_, member)| member.sb.uuid == uuid)
                .collect();
            one(&own)
        })
        .collect()
}

fn one(own: &[(usize, &Member)]) -> Option<Array> {
    let newest = own.iter().max_by_key(|(_, member)| member.sb.events)?.1;
    let sb = &newest.sb;
    let mut damage = Vec::new();
    let disk = if sb.members == 0 || sb.members > MOST_SLOTS {
        Err(broken(sb, "the number of members is impossible").mismatch("1 to 1920", sb.members))
    } else {
        let slots = fill(own, sb, &mut damage);
        let why = not_written(sb, &slots, &damage);
        build(sb, slots).map(|backing| backing.shut_if(why.as_deref()))
    };
    Some(Array {
        uuid: uuid_text(&sb.uuid),
        name: sb.name.clone(),
        level: level_name(sb.level),
        slots: sb.members,
        members: own.iter().map(|(nth, _)| *nth).collect(),
        damage,
        disk,
    })
}

/// Why the array must not be written, if so. What is written would be lost, or copies and parity
/// would no longer agree, where not every member takes part.
fn not_written(sb: &Superblock, slots: &Slots<'_>, damage: &[String]) -> Option<String> {
    if let Some(damage) = damage.first() {
        return Some(format!("the array is not complete: {damage}"));
    }
    if sb.level > 0 && !sb.in_sync {
        return Some("the array was not stopped cleanly and is not in sync".to_owned());
    }
    let mut events = slots.iter().flatten().map(|member| member.sb.events);
    if events.any(|events| events != sb.events) {
        return Some("the members of the array disagree about its last event".to_owned());
    }
    None
}

fn fill<'a>(own: &[(usize, &'a Member)], sb: &Superblock, damage: &mut Vec<String>) -> Slots<'a> {
    let count = usize::try_from(sb.members).unwrap_or(0);
    let mut slots: Slots<'_> = vec![None; count];
    let mut left_out = vec![false; count];
    for (_, member) in own {
        let its = &member.sb;
        let Role::Active(slot) = its.role else {
            continue;
        };
        let known = usize::try_from(its.number)
            .ok()
            .and_then(|number| sb.roles.get(number));
        let why = if its.events.saturating_add(1) < sb.events {
            Some(format!(
                "is out of date (event {}, the array is at {})",
                its.events, sb.events
            ))
        } else if known != Some(&its.role) {
            Some("was taken out of the array".to_owned())
        } else {
            its.doubt.clone().or_else(|| too_short(member))
        };
        let Some(place) = usize::try_from(slot).ok().filter(|slot| *slot < count) else {
            damage.push(format!("a member claims slot {slot} of {count}"));
            continue;
        };
        match why {
            Some(why) => {
                damage.push(format!("the member in slot {slot} {why}: it is not read"));
                if let Some(mark) = left_out.get_mut(place) {
                    *mark = true;
                }
            }
            None => {
                if let Some(free) = slots.get_mut(place) {
                    if free.is_some() {
                        damage.push(format!(
                            "two members claim slot {slot}: the first one is read"
                        ));
                    } else {
                        *free = Some(*member);
                    }
                }
            }
        }
    }
    for (nth, (slot, named)) in slots.iter().zip(left_out).enumerate() {
        if slot.is_none() && !named {
            damage.push(format!("the member in slot {nth} is missing"));
        }
    }
    slots
}

/// Bytes of a member's data that the array uses.
fn used(sb: &Superblock) -> u64 {
    if sb.level > 0 { sb.size } else { sb.data_size }
}

fn too_short(member: &Member) -> Option<String> {
    let sb = &member.sb;
    Window::new(Arc::clone(member.backing.disk()), sb.data_offset, used(sb))
        .err()
        .map(|_| "ends before its data do".to_owned())
}

/// A UUID as blkid prints it.
pub(super) fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (nth, byte) in uuid.iter().enumerate() {
        if matches!(nth, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
