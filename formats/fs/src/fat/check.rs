//! The survey before anything is written: every chain of the whole tree.
//!
//! Writing is refused where it could destroy something: tables that differ, chains that loop, cross,
//! lead outside or through free clusters. What is only untidy (lost clusters, chains longer than
//! their file, a wrong count of free clusters) is left as it is, for `fsck.fat`.

use rehost_block::Result;

use super::Fat;
use super::dir::Place;
use super::number::Bits;
use super::table::{Link, Row};

/// What a survey found.
#[derive(Debug)]
pub(super) struct Survey {
    /// Clusters whose table entry is not zero.
    pub(super) used: Bits,
    /// Clusters that hold directories.
    pub(super) dirs: Bits,
    pub(super) free: u32,
}

impl Fat {
    pub(super) fn survey(&self) -> Result<Survey> {
        let mut used = Bits::new(self.boot.end())?;
        let mut free = 0u32;
        for cluster in 2..self.boot.end() {
            if self.table.get(cluster)? == Link::Free {
                free = free.saturating_add(1);
            } else {
                used.set(cluster);
            }
        }
        let mut owned = Bits::new(self.boot.end())?;
        let mut dirs = Bits::new(self.boot.end())?;
        let mut left = vec![self.root_place()];
        // Ends because each directory takes a cluster that no other has.
        while let Some(place) = left.pop() {
            self.survey_directory(place, &mut owned, &mut dirs, &mut left)?;
        }
        Ok(Survey { used, dirs, free })
    }

    fn survey_directory(
        &self,
        place: Place,
        owned: &mut Bits,
        dirs: &mut Bits,
        left: &mut Vec<Place>,
    ) -> Result<()> {
        let listing = self.list(place)?;
        self.claim(&listing.rows, owned)?;
        for cluster in listing.rows.iter().flat_map(|row| row.clusters()) {
            dirs.set(cluster);
        }
        for entry in &listing.entries {
            if entry.short.is_directory() {
                left.push(self.place_of(&entry.short, entry.at)?);
            } else if entry.short.first != 0 {
                self.check_first(&entry.short, entry.at)?;
                let rows = self.whole_chain(entry.short.first)?;
                self.claim(&rows, owned)?;
            }
        }
        Ok(())
    }

    /// A chain to its end.
    pub(super) fn whole_chain(&self, first: u32) -> Result<Vec<Row>> {
        self.table
            .chain(first, u64::from(self.boot.clusters).saturating_add(1))
    }

    /// Notes whose the clusters are; fails when they are another's.
    fn claim(&self, rows: &[Row], owned: &mut Bits) -> Result<()> {
        for cluster in rows.iter().flat_map(|row| row.clusters()) {
            if owned.get(cluster) {
                return Err(self
                    .table
                    .corrupt(
                        cluster,
                        &format!("cluster {cluster} belongs to two files or directories"),
                    )
                    .hint("run fsck.fat on a copy of the original"));
            }
            owned.set(cluster);
        }
        Ok(())
    }
}
