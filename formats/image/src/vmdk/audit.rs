//! Looking at everything in one sparse extent: both directories, each table, each grain, and what
//! lies between them.
//!
//! VMware "Virtual Disk Format 5.0". Room is known by the runs that something refers to, so memory
//! grows with fragmentation and not with the disk.

use rehost_block::{Fields, Result, Storage, round_up};

use super::check::Mend;
use super::entries::{self, Grain};
use super::header::{Grains, HEADER_LEN, Header, STRUCTURE, UNCLEAN};
use super::{SECTOR, length};
use crate::check::{Check, Finding, Repair, Severity};

/// The names findings use.
const GD: &str = "grain directory";
const RGD: &str = "redundant grain directory";
const GT: &str = "grain table";
const RGT: &str = "redundant grain table";
const GRAIN: &str = "grain";
const FOOTER: &str = "footer";

/// A run of the file that something refers to, in bytes.
#[derive(Debug, Clone, Copy)]
struct Taken {
    start: u64,
    end: u64,
    what: &'static str,
}

/// One sparse extent being looked at.
pub(super) struct Audit<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    size: u64,
    check: &'a mut Check,
    taken: Vec<Taken>,
    /// Where the last stored grain ended.
    previous: Option<u64>,
    /// What can be done about the findings.
    mends: Vec<Mend>,
}

/// A table as one of the directories names it.
struct Table {
    at: u64,
    entries: Vec<u64>,
    /// Whether all its entries are possible.
    sound: bool,
}

/// What a directory says of one of its tables.
enum Named {
    Nothing,
    Table(Table),
    /// A place where no table can be.
    Nowhere(u64),
}

impl Named {
    const fn is_sound(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Table(table) => table.sound,
            Self::Nowhere(_) => false,
        }
    }

    fn entries(&self) -> &[u64] {
        match self {
            Self::Table(table) => &table.entries,
            Self::Nothing | Self::Nowhere(_) => &[],
        }
    }
}

impl<'a> Audit<'a> {
    /// Looks at all of the extent in `storage`, adds what is wrong to `check`, and gives what can be
    /// done about it.
    ///
    /// # Errors
    /// Io when the storage fails.
    pub(super) fn run(
        storage: &'a dyn Storage,
        header: &'a Header,
        check: &'a mut Check,
    ) -> Result<Vec<Mend>> {
        let mut audit = Self {
            storage,
            header,
            size: storage.size(),
            check,
            taken: Vec::new(),
            previous: None,
            mends: Vec::new(),
        };
        audit.header()?;
        audit.tables()?;
        audit.room();
        Ok(audit.mends)
    }

    fn find(
        &mut self,
        severity: Severity,
        structure: &'static str,
        offset: u64,
        text: impl Into<String>,
        repair: Repair,
    ) {
        self.check.find(Finding {
            severity,
            structure,
            offset,
            text: text.into(),
            repair,
        });
    }

    fn corrupt(&mut self, structure: &'static str, offset: u64, text: impl Into<String>) {
        self.find(Severity::Corruption, structure, offset, text, Repair::No);
    }

    fn take(&mut self, start: u64, len: u64, what: &'static str) {
        let end = start.saturating_add(len);
        match self.taken.last_mut() {
            Some(last) if last.end == start && last.what == what => last.end = end,
            _ => self.taken.push(Taken { start, end, what }),
        }
    }

    /// The fixed places, and what the header says of its own state.
    fn header(&mut self) -> Result<()> {
        self.take(0, SECTOR, STRUCTURE);
        if let Some((at, len)) = self.header.descriptor {
            self.take(at, len, "descriptor");
        }
        if self.header.unclean {
            self.mends.push(Mend::Close);
            self.find(
                Severity::Leak,
                STRUCTURE,
                super::amount(UNCLEAN),
                "was not closed by its last writer, or is still open",
                Repair::Safe,
            );
        }
        if self.header.grains == Grains::Compressed {
            self.footer()?;
        }
        Ok(())
    }

    /// A stream's header and footer are the same but for the place of the directory.
    fn footer(&mut self) -> Result<()> {
        let mut head = [0; HEADER_LEN];
        self.storage.read_at(&mut head, 0)?;
        let at_end = Fields::new(&head, STRUCTURE, 0).u64_le(56)? == super::header::GD_AT_END;
        let Some(start) = self.size.checked_sub(3 * SECTOR).filter(|_| at_end) else {
            return Ok(());
        };
        self.take(start, 3 * SECTOR, FOOTER);
        let at = start.saturating_add(SECTOR);
        let mut foot = [0; HEADER_LEN];
        self.storage.read_at(&mut foot, at)?;
        let differs = head
            .iter()
            .zip(&foot)
            .position(|(a, b)| a != b)
            .filter(|place| !(56..64).contains(place));
        let rest = head.get(64..) != foot.get(64..);
        if differs.is_some() || rest {
            self.corrupt(FOOTER, at, "says something else than the header");
        }
        Ok(())
    }

    fn directory(&mut self, at: u64, what: &'static str) -> Result<Option<Vec<u64>>> {
        let len = self.header.gd_len();
        if at.saturating_add(len) > self.size {
            self.corrupt(what, at, "reaches past the end of the file");
            return Ok(None);
        }
        self.take(at, round_up(len, SECTOR), what);
        let mut bytes = vec![0; length(len)?];
        self.storage.read_at(&mut bytes, at)?;
        Ok(Some(entries::parse(self.header.entries, &bytes).collect()))
    }

    fn tables(&mut self) -> Result<()> {
        let gd = self.header.gd.unwrap_or(0);
        let first = self.directory(gd, GD)?.unwrap_or_default();
        let second = match self.header.rgd {
            None => None,
            Some(rgd) => self.directory(rgd, RGD)?.map(|entries| (rgd, entries)),
        };
        let grains = self.header.capacity.div_ceil(self.header.grain.get());
        self.check.total_units = self.check.total_units.saturating_add(grains);
        let width = self.header.entries.len();
        for (number, entry) in (0u64..).zip(&first) {
            let slot = gd.saturating_add(number.saturating_mul(width));
            let primary = self.named(*entry, GT)?;
            let redundant = match &second {
                None => None,
                Some((rgd, entries)) => {
                    let slot = rgd.saturating_add(number.saturating_mul(width));
                    let entry = entries.get(length(number)?).copied().unwrap_or(0);
                    Some((slot, self.named(entry, RGT)?))
                }
            };
            let entries = self.compare(slot, &primary, redundant.as_ref());
            self.grains(number, entries)?;
        }
        Ok(())
    }

    /// The table that directory entry `entry` names.
    fn named(&mut self, entry: u64, what: &'static str) -> Result<Named> {
        let Ok(table) = entries::table(self.header.entries, entry) else {
            return Ok(Named::Nowhere(entry));
        };
        let Some(at) = entries::table_at(self.header, table) else {
            return Ok(Named::Nothing);
        };
        let len = self.header.gt_len();
        if at < SECTOR || at.saturating_add(len) > self.size {
            return Ok(Named::Nowhere(at));
        }
        self.take(at, round_up(len, SECTOR), what);
        let mut bytes = vec![0; length(len)?];
        self.storage.read_at(&mut bytes, at)?;
        let entries: Vec<u64> = entries::parse(self.header.entries, &bytes).collect();
        let sound = entries.iter().all(|entry| self.is_possible(*entry));
        Ok(Named::Table(Table { at, entries, sound }))
    }

    /// Whether a grain can be where table entry `entry` says.
    fn is_possible(&self, entry: u64) -> bool {
        match entries::grain(self.header, entry) {
            Some(Grain::Absent | Grain::Zero) => true,
            // A grain that the file's end cuts may be the disk's last one.
            Some(Grain::Stored(at)) => at >= SECTOR && at < self.size,
            None => false,
        }
    }

    /// Holds the two directories' tables against each other, and gives the entries to believe.
    fn compare<'t>(
        &mut self,
        slot: u64,
        primary: &'t Named,
        redundant: Option<&'t (u64, Named)>,
    ) -> &'t [u64] {
        let Some((other, second)) = redundant else {
            if let Named::Nowhere(at) = primary {
                self.corrupt(
                    GD,
                    slot,
                    format!("names a table at {at}, where none can be"),
                );
            }
            return primary.entries();
        };
        let same = primary.entries() == second.entries()
            || (is_empty(primary.entries()) && is_empty(second.entries()));
        match (primary.is_sound(), second.is_sound()) {
            (true, true) if same => {}
            (true, true) if is_empty(second.entries()) => {
                self.stale(
                    *other,
                    slot,
                    primary,
                    "is missing in the redundant directory",
                );
            }
            (true, true) => {
                self.corrupt(GT, place(primary, slot), "differs from its redundant copy");
            }
            (true, false) => {
                self.stale(*other, slot, primary, "has a damaged redundant copy");
            }
            (false, true) => {
                let text = "is damaged; its redundant copy is not";
                let at = place(primary, slot);
                self.find(Severity::Corruption, GT, at, text, Repair::Safe);
                self.mends.push(Mend::Table {
                    slot,
                    entries: second.entries().to_vec(),
                });
                return second.entries();
            }
            (false, false) => {
                if let Named::Nowhere(at) = primary {
                    self.corrupt(
                        GD,
                        slot,
                        format!("names a table at {at}, where none can be"),
                    );
                }
            }
        }
        primary.entries()
    }

    /// A redundant table, named by the entry at `other`, that has to be made anew.
    fn stale(&mut self, other: u64, slot: u64, primary: &Named, text: &'static str) {
        self.find(Severity::Leak, GT, place(primary, slot), text, Repair::Safe);
        self.mends.push(Mend::Table {
            slot: other,
            entries: primary.entries().to_vec(),
        });
    }

    /// The grains of table `number`.
    fn grains(&mut self, number: u64, entries: &[u64]) -> Result<()> {
        let grain = self.header.grain.get();
        let first = number.saturating_mul(self.header.gtes_per_gt.get());
        let lies = |index: u64| index.saturating_mul(grain);
        for (index, entry) in (first..).zip(entries) {
            if lies(index) >= self.header.capacity {
                break;
            }
            let at = match entries::grain(self.header, *entry) {
                Some(Grain::Absent | Grain::Zero) => continue,
                Some(Grain::Stored(at)) => at,
                None => {
                    self.corrupt(GT, 0, format!("entry of grain {index} is not known"));
                    continue;
                }
            };
            let left = self.header.capacity.saturating_sub(lies(index)).min(grain);
            let len = match self.header.grains {
                Grains::Plain if at.saturating_add(left) <= self.size => grain,
                Grains::Plain => {
                    let text = format!("{index} reaches past the end of the file");
                    self.corrupt(GRAIN, at, text);
                    continue;
                }
                Grains::Compressed => match self.marker(index, at)? {
                    Some(len) => len,
                    None => continue,
                },
            };
            self.check.allocated_units = self.check.allocated_units.saturating_add(1);
            if self.previous.is_some_and(|end| end != at) {
                self.check.fragmented_units = self.check.fragmented_units.saturating_add(1);
            }
            self.previous = Some(at.saturating_add(len));
            self.take(at, len, GRAIN);
        }
        Ok(())
    }

    /// The length of the compressed grain at `at`, marker and padding included.
    fn marker(&mut self, index: u64, at: u64) -> Result<Option<u64>> {
        let grain = self.header.grain.get();
        self.check.compressed_units = self.check.compressed_units.saturating_add(1);
        if self.size.saturating_sub(at) < 12 {
            let text = format!("{index} reaches past the end of the file");
            self.corrupt(GRAIN, at, text);
            return Ok(None);
        }
        let mut bytes = [0; 12];
        self.storage.read_at(&mut bytes, at)?;
        let marker = Fields::new(&bytes, "grain marker", at);
        let (lba, len) = (marker.u64_le(0)?, u64::from(marker.u32_le(8)?));
        if lba != index.saturating_mul(grain / SECTOR) {
            let text = format!("is for sector {lba}, and its table has it for grain {index}");
            self.corrupt("grain marker", at, text);
            return Ok(None);
        }
        let whole = len.saturating_add(12);
        if len == 0 || len > grain.saturating_mul(2) || at.saturating_add(whole) > self.size {
            let text = format!("of grain {index} has an impossible length of {len} bytes");
            self.corrupt("grain marker", at, text);
            return Ok(None);
        }
        if self.previous.is_some_and(|end| at < end) {
            let text = format!(
                "{index} comes before grains of lower sectors: importers that take \
                                the disk as a stream refuse it"
            );
            self.find(Severity::Leak, GRAIN, at, text, Repair::No);
        }
        Ok(Some(round_up(whole, SECTOR)))
    }

    /// What overlaps, and what nothing refers to.
    fn room(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        taken.sort_by_key(|run| (run.start, run.end));
        let grain = self.header.grain.get();
        // Writers align the first grain; what lies before it is no leak.
        let grains = taken.iter().find(|run| run.what == GRAIN);
        let grains = grains.map_or(u64::MAX, |run| run.start);
        let mut end = 0;
        let mut last = STRUCTURE;
        for run in &taken {
            if run.start < end {
                let text = format!("lies over a {last}");
                self.corrupt(run.what, run.start, text);
            }
            let gap = run.start.saturating_sub(end);
            if gap >= grain && run.start > grains {
                let text = format!("{gap} bytes that nothing refers to");
                self.find(Severity::Leak, GRAIN, end, text, Repair::No);
            }
            if run.end > end {
                end = run.end;
                last = run.what;
            }
        }
        self.check.image_end = self.check.image_end.max(end.min(self.size));
        let tail = self.size.saturating_sub(round_up(end, grain));
        let plain = self.header.grains == Grains::Plain;
        if plain && tail >= grain {
            // Where tables are damaged, the grains that they had may be there.
            let sure = self.check.corruptions == 0;
            let repair = if sure { Repair::Safe } else { Repair::No };
            let text = format!("{tail} bytes at the end that nothing refers to");
            self.find(Severity::Leak, GRAIN, end, text, repair);
            if sure {
                self.mends.push(Mend::Cut(round_up(end, grain)));
            }
        }
    }
}

fn is_empty(entries: &[u64]) -> bool {
    entries.iter().all(|entry| *entry == 0)
}

/// Where a finding about a table is: at the table, else at the entry that should name it.
const fn place(table: &Named, slot: u64) -> u64 {
    match table {
        Named::Table(table) => table.at,
        Named::Nothing | Named::Nowhere(_) => slot,
    }
}
