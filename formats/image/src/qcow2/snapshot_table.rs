//! The snapshot table: what each internal snapshot is called, and where its L1 table is.
//!
//! QEMU `docs/interop/qcow2.txt`, "Snapshots". Left out on purpose: QEMU's `icount` is kept as it is
//! and not told.

use rehost_block::{Error, Fields, Result, Storage};

use super::entry::{amount, index};
use super::header::{Header, MAX_L1_BYTES, past_end};
use crate::Snapshot;

/// Snapshots of one image. QEMU's: `QCOW_MAX_SNAPSHOTS`.
pub(super) const MAX_SNAPSHOTS: u32 = 65_536;
/// Bytes of the table. QEMU's: `QCOW_MAX_SNAPSHOTS_SIZE`.
const MAX_TABLE: u64 = 64 << 20;
/// Extra bytes of one entry. QEMU's: `QCOW_MAX_SNAPSHOT_EXTRA_DATA`.
const MAX_EXTRA: u64 = 1024;
/// Bytes before the extra data.
const FIXED: u64 = 40;

/// One entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) id: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) date_seconds: u32,
    pub(super) date_nanoseconds: u32,
    pub(super) vm_clock: u64,
    pub(super) vm_state_size: u64,
    /// As stored; entries of version 2 need not have it.
    pub(super) disk_size: Option<u64>,
    /// Extra data after the disk size.
    pub(super) more: Vec<u8>,
    /// Where the entry is in the file.
    pub(super) place: u64,
}

/// All snapshots, in the table's order.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotTable {
    pub(super) entries: Vec<Entry>,
    /// Length in bytes.
    pub(super) len: u64,
}

impl SnapshotTable {
    /// The table that `header` names.
    pub(super) fn read(header: &Header, storage: &dyn Storage) -> Result<Self> {
        let start = header.areas.snapshots;
        let mut table = Self::default();
        if header.snapshots == 0 {
            return Ok(table);
        }
        let fault = |what: &str| Error::corrupt(what).in_structure("header");
        if header.snapshots > MAX_SNAPSHOTS {
            return Err(fault("has too many snapshots")
                .at(60)
                .mismatch(format!("at most {MAX_SNAPSHOTS}"), header.snapshots));
        }
        if !header.geometry.is_aligned(start) || start == 0 {
            return Err(fault("snapshots_offset is not at a cluster boundary")
                .at(64)
                .mismatch(
                    format!("a multiple of {}", header.geometry.cluster_size()),
                    start,
                ));
        }
        // Ends because the number of entries is limited, and each must lie inside the file.
        for _ in 0..header.snapshots {
            let place = start.saturating_add(table.len);
            let (entry, len) = Entry::read(storage, place)?;
            table.entries.push(entry);
            table.len = table.len.saturating_add(len);
            if table.len > MAX_TABLE {
                return Err(Error::corrupt("snapshot table is too long")
                    .in_structure("snapshot table")
                    .at(place)
                    .mismatch(format!("at most {MAX_TABLE} bytes"), table.len));
            }
        }
        Ok(table)
    }

    /// The bytes of the table.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            entry.encode(&mut bytes);
        }
        bytes
    }

    /// The entry that `wanted` names: an id, or else a name.
    pub(super) fn find(&self, wanted: &str) -> Result<usize> {
        let by = |of: fn(&Entry) -> &[u8]| {
            self.entries
                .iter()
                .position(|entry| of(entry) == wanted.as_bytes())
        };
        by(|entry| &entry.id)
            .or_else(|| by(|entry| &entry.name))
            .ok_or_else(|| {
                let known: Vec<_> = self
                    .entries
                    .iter()
                    .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
                    .collect();
                Error::usage(format!("image has no snapshot {wanted:?}")).hint(
                    if known.is_empty() {
                        "it has none at all".to_owned()
                    } else {
                        format!("it has: {}", known.join(", "))
                    },
                )
            })
    }
}

impl Entry {
    fn read(storage: &dyn Storage, place: u64) -> Result<(Self, u64)> {
        let size = storage.size();
        let take = |len: u64| {
            let end = place.saturating_add(len);
            if end > size {
                let error = Error::corrupt("snapshot table lies outside the file")
                    .in_structure("snapshot table")
                    .at(place);
                return Err(past_end(error, end, size));
            }
            let mut bytes = vec![0; index(len)];
            storage.read_at(&mut bytes, place)?;
            Ok(bytes)
        };
        let fixed = take(FIXED)?;
        let fields = Fields::new(&fixed, "snapshot table", place);
        let extra = u64::from(fields.u32_be(36)?);
        if extra > MAX_EXTRA {
            return Err(fields
                .corrupt(36, "extra data of a snapshot is too long")
                .mismatch(format!("at most {MAX_EXTRA} bytes"), extra));
        }
        let l1_entries = u64::from(fields.u32_be(8)?);
        if l1_entries.saturating_mul(8) > MAX_L1_BYTES {
            return Err(fields
                .corrupt(8, "L1 table of a snapshot is too large")
                .mismatch(format!("at most {}", MAX_L1_BYTES / 8), l1_entries));
        }
        let id_len = u64::from(fields.u16_be(12)?);
        let name_len = u64::from(fields.u16_be(14)?);
        let id_at = FIXED.saturating_add(extra);
        let name_at = id_at.saturating_add(id_len);
        let end = name_at.saturating_add(name_len);
        let whole = take(end)?;
        let fields = Fields::new(&whole, "snapshot table", place);
        let large_state = (extra >= 8).then(|| fields.u64_be(40)).transpose()?;
        let entry = Self {
            l1_offset: fields.u64_be(0)?,
            l1_entries,
            id: fields.bytes(index(id_at), index(id_len))?.to_vec(),
            name: fields.bytes(index(name_at), index(name_len))?.to_vec(),
            date_seconds: fields.u32_be(16)?,
            date_nanoseconds: fields.u32_be(20)?,
            vm_clock: fields.u64_be(24)?,
            vm_state_size: match large_state {
                Some(size) => size,
                None => u64::from(fields.u32_be(32)?),
            },
            disk_size: (extra >= 16).then(|| fields.u64_be(48)).transpose()?,
            more: fields
                .bytes(56, index(extra.saturating_sub(16)))
                .unwrap_or_default()
                .to_vec(),
            place,
        };
        Ok((entry, end.next_multiple_of(8)))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        bytes.extend_from_slice(&self.l1_offset.to_be_bytes());
        bytes.extend_from_slice(&word(self.l1_entries));
        bytes.extend_from_slice(&short(self.id.len()));
        bytes.extend_from_slice(&short(self.name.len()));
        bytes.extend_from_slice(&self.date_seconds.to_be_bytes());
        bytes.extend_from_slice(&self.date_nanoseconds.to_be_bytes());
        bytes.extend_from_slice(&self.vm_clock.to_be_bytes());
        // The short field is for readers without the extra data, and says 0 where it cannot hold it.
        let state = u32::try_from(self.vm_state_size).unwrap_or(0);
        bytes.extend_from_slice(&state.to_be_bytes());
        let mut extra = self.vm_state_size.to_be_bytes().to_vec();
        if let Some(size) = self.disk_size {
            extra.extend_from_slice(&size.to_be_bytes());
            extra.extend_from_slice(&self.more);
        }
        bytes.extend_from_slice(&word(amount(extra.len())));
        bytes.extend_from_slice(&extra);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }

    /// The same for reports; `size` is the disk's where the entry does not say its own.
    pub(super) fn describe(&self, size: u64) -> Snapshot {
        Snapshot {
            id: String::from_utf8_lossy(&self.id).into_owned(),
            name: String::from_utf8_lossy(&self.name).into_owned(),
            disk_size: self.disk_size.unwrap_or(size),
            vm_state_size: self.vm_state_size,
            date_seconds: u64::from(self.date_seconds),
            date_nanoseconds: self.date_nanoseconds,
            vm_clock_nanoseconds: self.vm_clock,
        }
    }

    /// The header of the image as it was: the same, with this snapshot's disk. Its tables are
    /// checked as those of the active layer are.
    pub(super) fn as_of(&self, header: &Header, file_size: u64) -> Result<Header> {
        let size = self.disk_size.unwrap_or(header.size);
        let fault = |at: u64, what: &str| {
            Error::corrupt(what)
                .in_structure("snapshot table")
                .at(self.place.saturating_add(at))
        };
        let needed = header.geometry.l1_entries(size);
        if self.l1_entries < needed {
            return Err(fault(8, "L1 table of a snapshot is too small for its disk")
                .mismatch(format!("at least {needed}"), self.l1_entries));
        }
        if !header.geometry.is_aligned(self.l1_offset) {
            return Err(fault(
                0,
                "L1 table of a snapshot is not at a cluster boundary",
            ));
        }
        let end = self.l1_offset.saturating_add(needed.saturating_mul(8));
        if end > file_size || (needed > 0 && self.l1_offset == 0) {
            let error = fault(0, "L1 table of a snapshot lies outside the file");
            return Err(past_end(error, end, file_size));
        }
        Ok(Header {
            size,
            l1_offset: self.l1_offset,
            l1_entries: self.l1_entries,
            ..header.clone()
        })
    }
}
