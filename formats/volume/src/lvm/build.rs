//! Logical volumes made into disks: segments mapped down to the physical volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use rehost_block::{Error, Result, Window};

use super::assemble::absent;
use super::group::{Area, Group, Kind, Logical, Segment};
use super::leg;
use super::text::broken;
use super::thinned::Pools;
use crate::backing::Backing;
use crate::mapped::{Dealt, Joined, Piece, amount};

/// Logical volumes inside one another. LVM stacks five at most (a cached RAID of thin pools).
const DEEPEST: usize = 12;

/// How far a volume has come.
enum State {
    Building,
    Done(Backing),
    Failed(String),
}

/// Builds the logical volumes of one group, each once.
pub(super) struct Builder<'a> {
    pub(super) group: &'a Group,
    disks: BTreeMap<&'a str, Backing>,
    states: BTreeMap<&'a str, State>,
    pub(super) pools: Pools<'a>,
    clashes: BTreeMap<&'a str, &'a str>,
    depth: usize,
}

impl Kind {
    /// LVM's name for it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Striped { areas, .. } if areas.len() == 1 => "linear",
            Self::Striped { .. } => "striped",
            Self::Mirror { .. } => "mirror",
            Self::Raid1 { .. } => "raid1",
            Self::Zero => "zero",
            Self::Snapshot { .. } => "snapshot",
            Self::ThinPool(_) => "thin-pool",
            Self::Thin { .. } => "thin",
            Self::Other(name) => name,
        }
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(group: &'a Group, disks: BTreeMap<&'a str, Backing>) -> Self {
        Self {
            group,
            disks,
            states: BTreeMap::new(),
            pools: Pools::new(),
            clashes: clashes(group),
            depth: 0,
        }
    }

    /// A volume that is meant for users.
    pub(super) fn visible(&mut self, volume: &'a Logical) -> Result<Backing> {
        let mut doubt = (!volume.writable).then_some("the volume is read-only (lvchange -p r)");
        let name = volume.name.as_str();
        let all = self.group.logical.iter();
        for segment in all.flat_map(|volume| &volume.segments) {
            let (merged, read_through) = match &segment.kind {
                Kind::Snapshot { store, origin, .. } if store == name => {
                    return Err(refused(volume, &format!("a snapshot of {origin}")));
                }
                Kind::Snapshot {
                    origin, merging, ..
                } => {
                    let own = origin == name;
                    if own {
                        doubt = Some("the volume has a snapshot, which would change with it");
                    }
                    (own && *merging, false)
                }
                Kind::Thin {
                    origin,
                    merges_into,
                    ..
                } => {
                    let named = |other: &Option<String>| other.as_deref() == Some(name);
                    (named(merges_into), named(origin))
                }
                _ => continue,
            };
            if merged {
                let what = "a volume that a snapshot is being merged into";
                return Err(refused(volume, what));
            }
            if read_through {
                doubt = Some("a thin volume reads through to it, and would change with it");
            }
        }
        let built = self.volume(&volume.name, volume.at)?;
        Ok(built.shut_if(doubt))
    }

    /// The volume called `name`, which is named at byte `at` of the metadata.
    pub(super) fn volume(&mut self, name: &str, at: u64) -> Result<Backing> {
        let group = self.group;
        let volume = group
            .logical
            .iter()
            .find(|volume| volume.name == name)
            .ok_or_else(|| broken(format!("there is no volume {name}"), at))?;
        match self.states.get(volume.name.as_str()) {
            Some(State::Done(backing)) => return Ok(backing.clone()),
            Some(State::Failed(why)) => return Err(broken(why.clone(), at)),
            Some(State::Building) => {
                return Err(broken(format!("{name} is made of itself"), at));
            }
            None => {}
        }
        if self.depth >= DEEPEST {
            return Err(broken("volumes lie too deep in one another", at));
        }
        self.states.insert(&volume.name, State::Building);
        self.depth = self.depth.saturating_add(1);
        let built = self.build(volume);
        self.depth = self.depth.saturating_sub(1);
        let state = match &built {
            Ok(backing) => State::Done(backing.clone()),
            Err(error) => State::Failed(error.to_string()),
        };
        self.states.insert(&volume.name, state);
        built
    }

    fn build(&mut self, volume: &'a Logical) -> Result<Backing> {
        if let Some(other) = self.clashes.get(volume.name.as_str()) {
            let what = format!("{} and {other} lie over each other", volume.name);
            return Err(broken(what, volume.at));
        }
        let mut joined = Joined::new();
        let mut doubt = None;
        for segment in &volume.segments {
            let len = self.bytes(segment.extents, segment)?;
            let (piece, why) = self.piece(volume, segment, len)?;
            joined.push(piece, len)?;
            doubt = doubt.or(why);
        }
        Ok(joined.into_backing().shut_if(doubt))
    }

    fn bytes(&self, extents: u64, segment: &Segment) -> Result<u64> {
        extents
            .checked_mul(self.group.extent)
            .ok_or_else(|| broken("a segment is larger than any disk", segment.at))
    }

    /// The bytes of a segment, and why they must not be written, if so.
    fn piece(
        &mut self,
        volume: &'a Logical,
        segment: &'a Segment,
        len: u64,
    ) -> Result<(Piece, Option<&'static str>)> {
        match &segment.kind {
            Kind::Striped { chunk, areas } => {
                let count = amount(areas.len());
                if segment.extents.checked_rem(count) != Some(0) {
                    let what = "extent_count is no multiple of the number of stripes";
                    return Err(broken(what, segment.at));
                }
                let share = len.checked_div(count).unwrap_or(0);
                let mut parts = Vec::new();
                for area in areas {
                    parts.push(self.area(area, share, segment)?);
                }
                if parts.len() == 1 {
                    return Ok((Piece::Part(parts), None));
                }
                if share.checked_rem(*chunk) != Some(0) {
                    return Err(broken("extents are no multiple of stripe_size", segment.at));
                }
                let chunk = *chunk;
                Ok((Piece::Dealt(Dealt { parts, chunk }), None))
            }
            Kind::Mirror { areas } => self.legs(areas, len, segment),
            Kind::Raid1 { legs } => {
                let mut known = Vec::new();
                for (meta, _) in legs {
                    let disk = meta.as_ref().map(|name| self.volume(name, segment.at));
                    let disk = disk.and_then(Result::ok);
                    known.push(disk.map(|backing| Arc::clone(backing.disk())));
                }
                let complete = leg::complete(&known)?;
                // The images hold the volume from its start: a later segment begins further on.
                let areas: Vec<Area> = complete
                    .legs
                    .into_iter()
                    .filter_map(|nth| legs.get(nth))
                    .map(|(_, image)| (image.clone(), segment.start))
                    .collect();
                let (piece, doubt) = self.legs(&areas, len, segment)?;
                Ok((piece, complete.doubt.or(doubt)))
            }
            Kind::Zero => Ok((Piece::Zero, None)),
            Kind::Thin { .. } => {
                let thin = self.thin(volume, segment, len)?;
                Ok((Piece::Part(vec![(thin, 0)]), None))
            }
            Kind::ThinPool(_) => Err(refused(volume, "a thin pool, and no data but its volumes'")),
            Kind::Snapshot { .. } | Kind::Other(_) => {
                Err(refused(volume, &format!("of type {}", segment.kind.name())))
            }
        }
    }

    /// Those of `areas`, which hold the same, that are all there.
    fn legs(
        &mut self,
        areas: &[Area],
        len: u64,
        segment: &Segment,
    ) -> Result<(Piece, Option<&'static str>)> {
        let mut first_error = None;
        let mut parts = Vec::new();
        for area in areas {
            match self.area(area, len, segment) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        if parts.is_empty() {
            return Err(
                first_error.unwrap_or_else(|| broken("no leg of a mirror is complete", segment.at))
            );
        }
        let doubt = first_error.map(|_| "a leg of the mirror is not there");
        Ok((Piece::Part(parts), doubt))
    }

    /// `len` bytes of a physical or logical volume, and where they begin.
    fn area(&mut self, area: &Area, len: u64, segment: &Segment) -> Result<(Backing, u64)> {
        let (name, extent) = area;
        let start = self.bytes(*extent, segment)?;
        let outside = || {
            broken(
                format!("an area reaches past the end of {name}"),
                segment.at,
            )
        };
        let (disk, first) = match self.group.physical.get(name) {
            Some(physical) => {
                let disk = self
                    .disks
                    .get(name.as_str())
                    .ok_or_else(|| absent(self.group, name))?;
                let room = physical.extents.checked_mul(self.group.extent);
                let end = start.checked_add(len);
                if end.is_none_or(|end| room.is_none_or(|room| end > room)) {
                    return Err(outside());
                }
                (disk.clone(), physical.first)
            }
            None => (self.volume(name, segment.at)?, 0),
        };
        let from = first.checked_add(start).ok_or_else(outside)?;
        // Only to have the place checked against the disk's size.
        Window::new(Arc::clone(disk.disk()), from, len).map_err(|error| {
            outside()
                .because(error)
                .hint("the image may be truncated: compare its size with the original disk")
        })?;
        Ok((disk, from))
    }
}

pub(super) fn refused(volume: &Logical, what: &str) -> Error {
    Error::unsupported(format!("{} is {what}, which cannot be read", volume.name))
        .in_structure("LVM2 metadata")
        .at(volume.at)
}

/// The volumes that claim the same extents of a physical volume, each with one of the others.
fn clashes(group: &Group) -> BTreeMap<&str, &str> {
    let mut claims: BTreeMap<&str, Vec<(u64, u64, &str)>> = BTreeMap::new();
    for volume in &group.logical {
        for segment in &volume.segments {
            let (areas, share) = match &segment.kind {
                Kind::Striped { areas, .. } => {
                    let count = amount(areas.len());
                    (areas, segment.extents.checked_div(count).unwrap_or(0))
                }
                Kind::Mirror { areas } => (areas, segment.extents),
                _ => continue,
            };
            for (name, extent) in areas {
                if group.physical.contains_key(name) {
                    let end = extent.saturating_add(share);
                    let claim = (*extent, end, volume.name.as_str());
                    claims.entry(name).or_default().push(claim);
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    for list in claims.values_mut() {
        list.sort_unstable();
        let mut furthest: Option<(u64, &str)> = None;
        for (start, end, name) in list.iter() {
            if let Some((reach, other)) = furthest
                && *start < reach
            {
                found.insert(*name, other);
                found.insert(other, *name);
            }
            if furthest.is_none_or(|(reach, _)| *end > reach) {
                furthest = Some((*end, name));
            }
        }
    }
    found
}
