//! `check` of VHDX: both headers, both region tables, the log, every entry of the block allocation
//! table, lost room.
//!
//! \[MS-VHDX\] §2.2 to §2.5. Room between blocks is no finding: Hyper-V leaves and uses it again.

use std::sync::Arc;

use rehost_block::{Fields, Result, Storage, round_up};

use super::open::Structures;
use super::patched::Patched;
use super::region::Regions;
use super::{KIB64, MIB, header, length};
use crate::Format;
use crate::check::{Check, Finding, Repair, Severity};
use crate::layer::Opening;
use crate::room::{Claim, Claims, is_device};

const BAT: &str = "block allocation table";

/// Bits of an entry that mean nothing and must be zero (§2.5.1).
const RESERVED: u64 = 0xf_fff8;

/// Checks one image.
///
/// # Errors
/// As opening it.
pub(crate) fn check(opening: &Opening<'_>) -> Result<Check> {
    let file = &opening.storage;
    let structures = Structures::read(file)?;
    let mut check = Check::new(Format::Vhdx);
    check_copies(&**file, &structures, &mut check)?;
    let claims = check_table(&structures, &mut check)?;
    for (claim, other) in claims.overlaps() {
        check.find(corrupt(
            claim.entry,
            format!(
                "what is at byte {} lies over what is at {}, which the entry at {} refers to",
                claim.start, other.start, other.entry
            ),
        ));
    }
    check.image_end = claims.end().min(file.size());
    let end = round_up(claims.end(), MIB);
    let lost = file.size().saturating_sub(end);
    if lost >= MIB && !is_device(&**file) {
        check.find(Finding {
            severity: Severity::Leak,
            structure: "file",
            offset: end,
            text: format!("{lost} bytes at the end are no block's"),
            repair: Repair::Safe,
        });
    }
    Ok(check)
}

const fn corrupt(offset: u64, text: String) -> Finding {
    Finding {
        severity: Severity::Corruption,
        structure: BAT,
        offset,
        text,
        repair: Repair::No,
    }
}

/// Copies that are damaged or old, and a log that is not in the file yet: no guest byte is at risk.
fn check_copies(file: &dyn Storage, structures: &Structures, check: &mut Check) -> Result<()> {
    let stale = |structure, offset, text: String| Finding {
        severity: Severity::Leak,
        structure,
        offset,
        text,
        repair: Repair::Safe,
    };
    for at in header::damaged(file)? {
        check.find(stale(
            "header",
            at,
            "is damaged; the other one is whole".to_owned(),
        ));
    }
    if let (_, Some(at)) = Regions::copies(&*structures.patched)? {
        check.find(stale(
            "region table",
            at,
            "is not the same as the other copy".to_owned(),
        ));
    }
    if structures.replayed > 0 {
        check.find(stale(
            "log",
            structures.header.log_offset,
            format!(
                "{} entries were not written to their places yet",
                structures.replayed
            ),
        ));
    }
    Ok(())
}

/// Walks the table.
struct Walk<'a> {
    structures: &'a Structures,
    check: &'a mut Check,
    claims: Vec<Claim>,
    /// A partially present block of the current chunk: its entry's place.
    partial: Option<u64>,
    /// Where the last stored block ends.
    last: Option<u64>,
}

fn check_table(structures: &Structures, check: &mut Check) -> Result<Claims> {
    let geometry = &structures.metadata.geometry;
    let claims = structures.taken.iter().map(|taken| Claim {
        start: taken.range.start,
        end: taken.range.end,
        entry: taken.range.start,
    });
    let claims = claims.collect();
    check.total_units = geometry.blocks();
    let mut walk = Walk {
        structures,
        check,
        claims,
        partial: None,
        last: None,
    };
    let chunk = geometry.chunk_ratio.get().saturating_add(1);
    let entries = geometry.entries(structures.metadata.parent.is_some());
    for_each_entry(
        &structures.patched,
        structures.regions.bat.offset,
        entries,
        |index, at, entry| {
            if index.saturating_add(1).is_multiple_of(chunk) {
                walk.bitmap(at, entry);
            } else {
                let chunks = index.checked_div(chunk).unwrap_or(0);
                walk.payload(index.saturating_sub(chunks), at, entry);
            }
        },
    )?;
    Ok(Claims::new(walk.claims))
}

/// Calls `each` with number, place and value of the first `count` entries of the table at `bat`.
///
/// # Errors
/// Io or Corrupt when the table cannot be read.
pub(super) fn for_each_entry(
    storage: &Arc<Patched>,
    bat: u64,
    count: u64,
    mut each: impl FnMut(u64, u64, u64),
) -> Result<()> {
    let per_page = KIB64 / 8;
    let mut index = 0;
    // Ends because `index` grows every round.
    while index < count {
        let entries = count.saturating_sub(index).min(per_page);
        let at = bat.saturating_add(index.saturating_mul(8));
        let mut bytes = vec![0; length(entries.saturating_mul(8))?];
        storage.read_at(&mut bytes, at)?;
        let fields = Fields::new(&bytes, BAT, at);
        for place in (0..bytes.len()).step_by(8) {
            each(index, fields.offset_of(place), fields.u64_le(place)?);
            index = index.saturating_add(1);
        }
    }
    Ok(())
}

impl Walk<'_> {
    fn payload(&mut self, block: u64, at: u64, entry: u64) {
        let differencing = self.structures.metadata.parent.is_some();
        self.reserved(at, entry);
        match (entry & 7, differencing) {
            (0..=3, _) => {}
            (6, _) => self.stored(block, at, entry),
            (7, true) => {
                self.partial = Some(at);
                self.stored(block, at, entry);
            }
            (7, false) => self.check.find(corrupt(
                at,
                format!("block {block} is partially present in a disk without a parent"),
            )),
            (state, _) => self.check.find(corrupt(
                at,
                format!("block {block} has the reserved state {state}"),
            )),
        }
    }

    fn stored(&mut self, block: u64, at: u64, entry: u64) {
        let geometry = &self.structures.metadata.geometry;
        self.check.allocated_units = self.check.allocated_units.saturating_add(1);
        let start = (entry >> 20).saturating_mul(MIB);
        if self.last.is_some_and(|last| last != start) {
            self.check.fragmented_units = self.check.fragmented_units.saturating_add(1);
        }
        self.last = Some(start.saturating_add(geometry.block.get()));
        let guest = block.saturating_mul(geometry.block.get());
        let needed = geometry
            .size
            .saturating_sub(guest)
            .min(geometry.block.get());
        self.claim("block", at, start, needed, geometry.block.get());
    }

    fn bitmap(&mut self, at: u64, entry: u64) {
        self.reserved(at, entry);
        let partial = self.partial.take();
        match (entry & 7, partial) {
            (0, None) => {}
            (6, _) => {
                let start = (entry >> 20).saturating_mul(MIB);
                self.claim("sector bitmap block", at, start, MIB, MIB);
            }
            (state, Some(block)) => self.check.find(corrupt(
                at,
                format!(
                    "sector bitmap block has state {state}, and the block of the entry at {block} \
                     needs it"
                ),
            )),
            (state, None) => self.check.find(corrupt(
                at,
                format!("sector bitmap block has the reserved state {state}"),
            )),
        }
    }

    fn claim(&mut self, what: &str, at: u64, start: u64, needed: u64, len: u64) {
        let size = self.structures.patched.size();
        let end = start.saturating_add(needed);
        if end > size {
            self.check.find(corrupt(
                at,
                format!("{what} ends at {end}, past the end of the file"),
            ));
            return;
        }
        self.claims.push(Claim {
            start,
            end: start.saturating_add(len),
            entry: at,
        });
    }

    fn reserved(&mut self, at: u64, entry: u64) {
        if entry & RESERVED != 0 {
            self.check.find(corrupt(
                at,
                format!("entry {entry:#018x} has reserved bits set"),
            ));
        }
    }
}
