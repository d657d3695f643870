//! How often each cluster of the file is referred to, and by what, for a window of the file.
//!
//! Memory is bounded by looking at a window of clusters at a time: files of more than
//! [`WINDOW`] clusters (1 TiB of 64 KiB clusters) are gone through several times.

use crate::check::{Check, Finding, Repair, Severity};

use super::super::entry::{Geometry, index};

/// Clusters counted at once: 80 MiB of memory. Ours.
pub(super) const WINDOW: u64 = 16 << 20;

/// What refers to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Refcounts,
    L1,
    L2,
    Snapshots,
    Bitmaps,
    Data,
    Packed,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Header, "header"),
    (Kind::Refcounts, "refcounts"),
    (Kind::L1, "L1 table"),
    (Kind::L2, "L2 table"),
    (Kind::Snapshots, "snapshot table"),
    (Kind::Bitmaps, "bitmaps"),
    (Kind::Data, "guest data"),
    (Kind::Packed, "compressed guest data"),
];

impl Kind {
    const fn bit(self) -> u8 {
        match self {
            Self::Header => 1,
            Self::Refcounts => 2,
            Self::L1 => 4,
            Self::L2 => 8,
            Self::Snapshots => 16,
            Self::Bitmaps => 32,
            Self::Data => 64,
            Self::Packed => 128,
        }
    }
}

/// The field that refers to something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) structure: &'static str,
    pub(super) offset: u64,
}

/// Counts of one window.
#[derive(Debug)]
pub(super) struct Tally {
    geometry: Geometry,
    /// First cluster of the window.
    first: u64,
    /// Clusters of the whole file, a part of one at its end too.
    file_clusters: u64,
    counts: Vec<u32>,
    kinds: Vec<u8>,
    /// One past the last cluster that is referred to, of the whole file.
    end: u64,
}

impl Tally {
    /// Nothing counted yet, of the window that begins at cluster `first`.
    pub(super) fn new(geometry: Geometry, first: u64, file_size: u64) -> Self {
        let file_clusters = file_size.div_ceil(geometry.unit().get());
        let len = index(file_clusters.saturating_sub(first).min(WINDOW));
        Self {
            geometry,
            first,
            file_clusters,
            counts: vec![0; len],
            kinds: vec![0; len],
            end: 0,
        }
    }

    /// Clusters of the window.
    pub(super) fn clusters(&self) -> std::ops::Range<u64> {
        let end = self.first.saturating_add(WINDOW).min(self.file_clusters);
        self.first..end
    }

    /// Whether the window holds `cluster`.
    pub(super) fn holds(&self, cluster: u64) -> bool {
        self.clusters().contains(&cluster)
    }

    /// One past the last cluster that is referred to.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Notes `weight` references to every cluster that the range touches. What reaches past the
    /// file by a cluster or more is noted in `check` and not counted.
    pub(super) fn refer(
        &mut self,
        kind: Kind,
        (offset, len): (u64, u64),
        weight: u64,
        place: Place,
        check: &mut Check,
    ) {
        if len == 0 {
            return;
        }
        let end = self
            .geometry
            .cluster_of(offset.saturating_add(len.saturating_sub(1)))
            .saturating_add(1);
        if end > self.file_clusters {
            self.find(
                check,
                Finding {
                    severity: Severity::Corruption,
                    structure: place.structure,
                    offset: place.offset,
                    text: format!(
                        "refers to {len} bytes at {offset}, past the end of the file at cluster {}",
                        self.file_clusters
                    ),
                    repair: Repair::No,
                },
            );
            return;
        }
        self.end = self.end.max(end);
        let from = self.geometry.cluster_of(offset).max(self.first);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        for cluster in from..end.min(self.clusters().end) {
            let at = index(cluster.saturating_sub(self.first));
            if let (Some(count), Some(kinds)) = (self.counts.get_mut(at), self.kinds.get_mut(at)) {
                *count = count.saturating_add(weight);
                *kinds |= kind.bit();
            }
        }
    }

    /// References of `cluster`.
    pub(super) fn count(&self, cluster: u64) -> u64 {
        cluster
            .checked_sub(self.first)
            .and_then(|at| self.counts.get(index(at)))
            .map_or(0, |count| u64::from(*count))
    }

    /// What is wrong with `cluster` holding all it holds.
    pub(super) fn overlap(&self, cluster: u64) -> Option<String> {
        let at = index(cluster.checked_sub(self.first)?);
        let kinds = *self.kinds.get(at)?;
        let shareable = Kind::L2.bit() | Kind::Data.bit() | Kind::Packed.bit();
        let names: Vec<_> = KINDS
            .iter()
            .filter(|(kind, _)| kinds & kind.bit() != 0)
            .map(|(_, name)| *name)
            .collect();
        if names.len() > 1 {
            return Some(format!(
                "cluster {cluster} is {} at once",
                names.join(" and ")
            ));
        }
        let twice = kinds & shareable == 0 && self.counts.get(at).is_some_and(|n| *n > 1);
        twice.then(|| format!("cluster {cluster} is {} more than once", names.join("")))
    }

    /// Notes what is found while references are counted: once, in the first window.
    pub(super) fn find(&self, check: &mut Check, finding: Finding) {
        if self.first == 0 {
            check.find(finding);
        }
    }
}
