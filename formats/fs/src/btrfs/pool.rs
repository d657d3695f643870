//! The devices of one filesystem, addressed logically.

use std::collections::BTreeMap;
use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

use super::chunk::{ChunkMap, Place};
use super::superblock::Superblock;
use crate::ext4::uuid_text;
use crate::number::{length, wide};

/// Members of a filesystem, at most. Ours; every one of them is a disk that is open.
pub(super) const MOST_DEVICES: usize = 1024;

/// The newest superblock of several members, and their disks by device number.
pub(super) type Members = (Superblock, BTreeMap<u64, Arc<dyn Disk>>);

/// Sorts the members of one filesystem. A member that is more than one generation behind was left out
/// while the others were written, and is as good as missing.
pub(super) fn members(disks: Vec<Arc<dyn Disk>>) -> Result<Members> {
    if disks.len() > MOST_DEVICES {
        return Err(Error::unsupported(format!(
            "more than {MOST_DEVICES} members"
        )));
    }
    let mut found: Vec<(Superblock, Arc<dyn Disk>)> = Vec::new();
    for disk in disks {
        let sb = Superblock::read(&disk)?;
        if let Some((first, _)) = found.first()
            && first.metadata_uuid != sb.metadata_uuid
        {
            return Err(Error::usage(format!(
                "the disks belong to different filesystems, {} and {}",
                uuid_text(&first.fsid).unwrap_or_default(),
                uuid_text(&sb.fsid).unwrap_or_default()
            )));
        }
        found.push((sb, disk));
    }
    let newest = found
        .iter()
        .map(|(sb, _)| sb)
        .max_by_key(|sb| sb.generation)
        .cloned()
        .ok_or_else(|| Error::usage("no disk was given"))?;
    let mut disks = BTreeMap::new();
    for (sb, disk) in found {
        if sb.generation.saturating_add(1) < newest.generation {
            continue;
        }
        if disks.insert(sb.device, disk).is_some() {
            return Err(Error::usage(format!(
                "two of the disks are member {} of the filesystem",
                sb.device
            )));
        }
    }
    Ok((newest, disks))
}

/// Devices and chunks.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) devices: BTreeMap<u64, Arc<dyn Disk>>,
    pub(super) chunks: ChunkMap,
}

impl Pool {
    /// How often the bytes at `logical` are stored, at least once.
    pub(super) fn copies(&self, logical: u64) -> Result<usize> {
        Ok(self.chunks.piece(logical, 1)?.copies.len().max(1))
    }

    /// Fills `buf` from logical address `logical` with copy `nth`; gives where its first byte was.
    pub(super) fn read(&self, logical: u64, buf: &mut [u8], nth: usize) -> Result<Place> {
        let mut first = None;
        let mut at = logical;
        let mut rest = buf;
        // Ends because every piece has at least one byte.
        while !rest.is_empty() {
            let piece = self.chunks.piece(at, wide(rest.len()))?;
            let place = piece
                .copies
                .get(nth.checked_rem(piece.copies.len()).unwrap_or(0))
                .copied()
                .ok_or_else(|| Error::internal("a chunk has no copies"))?;
            let len = length(piece.len)?.clamp(1, rest.len());
            let (part, tail) = rest.split_at_mut(len);
            self.read_place(place, part)?;
            first = first.or(Some(place));
            at = at.saturating_add(wide(len));
            rest = tail;
        }
        first.ok_or_else(|| Error::internal("nothing was to be read"))
    }

    fn read_place(&self, place: Place, buf: &mut [u8]) -> Result<()> {
        let disk = self.disk(place.device)?;
        let end = place.offset.checked_add(wide(buf.len()));
        if end.is_none_or(|end| end > disk.size()) {
            return Err(Error::corrupt(format!(
                "stripe lies past the end of member {}",
                place.device
            ))
            .at(place.offset)
            .mismatch(
                format!("an end of at most {}", disk.size()),
                format!("{} bytes more", buf.len()),
            ));
        }
        disk.read_at(buf, place.offset)
    }

    pub(super) fn disk(&self, device: u64) -> Result<&Arc<dyn Disk>> {
        self.devices
            .get(&device)
            .ok_or_else(|| missing(device, None))
    }

    /// Refuses a pool in which something has no copy left.
    pub(super) fn check_complete(&self) -> Result<()> {
        let there = |device| self.devices.contains_key(&device);
        for chunk in self.chunks.iter() {
            if let Some((device, uuid)) = chunk.lacks(&there) {
                return Err(missing(device, Some(uuid)));
            }
        }
        Ok(())
    }
}

fn missing(device: u64, uuid: Option<[u8; 16]>) -> Error {
    let uuid = uuid.and_then(|uuid| uuid_text(&uuid));
    let which = uuid.map_or_else(String::new, |uuid| format!(" (UUID_SUB {uuid})"));
    Error::unsupported(format!(
        "member {device}{which} of the filesystem is missing, and its content is not stored twice"
    ))
    .in_structure("chunk tree")
    .hint("give all disks of the filesystem")
}
