//! Clusters: finding free ones, filling them, making and freeing chains.

use std::collections::BTreeMap;

use rehost_block::{Error, Kind, Result};

use super::super::table::{Row, push_cluster};
use super::change::Change;
use crate::content::{self, Content};
use crate::number::{length, wide};

/// What a table entry becomes at the end of a chain; each width keeps its low bits.
const END: u32 = 0x0fff_ffff;

pub(super) fn count(rows: &[Row]) -> u64 {
    rows.iter().map(|row| u64::from(row.count)).sum()
}

pub(super) fn clusters(rows: &[Row]) -> impl Iterator<Item = u32> {
    rows.iter().flat_map(|row| row.clusters())
}

pub(super) fn first_of(rows: &[Row]) -> u32 {
    rows.first().map_or(0, |row| row.first)
}

pub(super) fn last_of(rows: &[Row]) -> Option<u32> {
    clusters(rows.get(rows.len().saturating_sub(1)..).unwrap_or_default()).last()
}

/// The first `most` clusters of rows, and the others.
pub(super) fn split(rows: &[Row], most: u64) -> (Vec<Row>, Vec<Row>) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    for (nth, cluster) in (0..).zip(clusters(rows)) {
        push_cluster(if nth < most { &mut head } else { &mut tail }, cluster);
    }
    (head, tail)
}

fn full() -> Error {
    Error::new(Kind::Io, "filesystem is full")
}

impl Change<'_> {
    /// Finds free clusters, without taking them.
    pub(super) fn pick(&self, most: u64) -> Result<Vec<Row>> {
        if most > u64::from(self.state.survey.free) {
            return Err(full());
        }
        let end = self.state.fs.boot.end();
        let hint = self.state.hint.clamp(2, end);
        let most = length(most)?;
        let mut rows = Vec::new();
        let free = (hint..end)
            .chain(2..hint)
            .filter(|cluster| !self.state.survey.used.get(*cluster));
        for cluster in free.take(most) {
            push_cluster(&mut rows, cluster);
        }
        if count(&rows) == wide(most) {
            Ok(rows)
        } else {
            Err(full())
        }
    }

    /// Writes content, and zeroes to the end of its last cluster.
    pub(super) fn fill(&self, rows: &[Row], content: &dyn Content) -> Result<()> {
        let cluster = self.state.fs.boot.cluster;
        let mut from = 0u64;
        for row in rows {
            let at = self.state.fs.boot.offset(row.first);
            let len = u64::from(row.count).saturating_mul(cluster);
            let to = from.saturating_add(len).min(content.size());
            let have = content::put(content, &(from..to), self.disk, at)?;
            if have < len {
                self.disk
                    .zero_at(at.saturating_add(have), len.saturating_sub(have))?;
            }
            from = to;
        }
        Ok(())
    }

    /// Makes rows of free clusters a chain of their own.
    pub(super) fn chain(&mut self, rows: &[Row]) -> Result<()> {
        let mut changes = BTreeMap::new();
        let mut before = None;
        for cluster in clusters(rows) {
            if let Some(before) = before.replace(cluster) {
                changes.insert(before, cluster);
            }
            changes.insert(cluster, END);
            self.state.survey.used.set(cluster);
            self.state.survey.free = self.state.survey.free.saturating_sub(1);
        }
        if let Some(last) = before {
            let after = last.saturating_add(1);
            self.state.hint = if after < self.state.fs.boot.end() {
                after
            } else {
                2
            };
        }
        self.state.fs.table.store(self.disk, &changes)
    }

    /// Frees the clusters of rows; the chain that they were the end of, if any, ends at `end`.
    pub(super) fn free(&mut self, rows: &[Row], end: Option<u32>) -> Result<()> {
        let mut changes: BTreeMap<u32, u32> = clusters(rows).map(|cluster| (cluster, 0)).collect();
        for cluster in clusters(rows) {
            self.state.survey.used.clear(cluster);
            self.state.survey.dirs.clear(cluster);
            self.state.survey.free = self.state.survey.free.saturating_add(1);
        }
        changes.extend(end.map(|end| (end, END)));
        self.state.fs.table.store(self.disk, &changes)
    }

    /// Appends rows, a chain of their own, to the chain that ends at `last`.
    pub(super) fn link(&self, last: u32, rows: &[Row]) -> Result<()> {
        let changes = BTreeMap::from([(last, first_of(rows))]);
        self.state.fs.table.store(self.disk, &changes)
    }
}
