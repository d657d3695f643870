//! Looking at every table of a QED that asks for it: "Consistency checking" in the specification.
//!
//! A writer sets `QED_F_NEED_CHECK` before it changes tables and clears it when they are on stable
//! storage. After a crash an entry may lead past the end of the file, or two to the same cluster.

use rehost_block::{Error, Result};

use super::layer::{Qed, entry_at};
use crate::words::Content;

/// Clusters of a file that are kept account of: 64 MiB of bits. Ours; 32 TiB in usual clusters.
const MAX_CLUSTERS: u64 = 1 << 29;

/// Which clusters of the file something was found to lie in.
struct Used(Vec<u64>);

impl Used {
    /// Takes `count` clusters from `first` on; tells whether they all were free.
    fn take(&mut self, first: u64, count: u64) -> bool {
        // Ends after `count` rounds: at most the 16 clusters of a table.
        (first..first.saturating_add(count)).all(|cluster| {
            let bit = 1u64.checked_shl(u32::try_from(cluster % 64).unwrap_or(0));
            let word = usize::try_from(cluster / 64)
                .ok()
                .and_then(|at| self.0.get_mut(at));
            match (word, bit) {
                (Some(word), Some(bit)) if *word & bit == 0 => {
                    *word |= bit;
                    true
                }
                _ => false,
            }
        })
    }
}

impl Qed {
    /// Walks all tables when the header asks for a check.
    ///
    /// # Errors
    /// Corrupt for the first entry that leads nowhere or to a cluster in use; Unsupported when the
    /// file is too long to be checked.
    pub(super) fn check_if_needed(&self) -> Result<()> {
        if !self.header.need_check {
            return Ok(());
        }
        self.check().map_err(|error| {
            error.in_file(self.storage.name()).hint(
                "the image was not closed after its last use: qemu-img check -r all repairs it",
            )
        })
    }

    fn check(&self) -> Result<()> {
        let header = &self.header;
        let clusters = self.file_size.div_ceil(header.cluster.get());
        if clusters > MAX_CLUSTERS {
            return Err(Error::unsupported("file is too long to be checked")
                .in_structure("L1 table")
                .mismatch(format!("at most {MAX_CLUSTERS} clusters"), clusters));
        }
        let words = usize::try_from(clusters.div_ceil(64)).unwrap_or(0);
        let mut used = Used(vec![0; words]);
        let table = u64::from(header.table_clusters);
        used.take(0, header.header_bytes / header.cluster);
        let doubly =
            |what: &str, structure, at| Err(Error::corrupt(what).in_structure(structure).at(at));
        if !used.take(header.l1 / header.cluster, table) {
            return doubly("L1 table lies over the header", "QED header", 40);
        }
        // Ends because no L2 table is walked twice, and each has its own clusters of the file.
        for index in 0..header.size.div_ceil(header.span.get()) {
            let Some(l2) = self.l2(index)? else { continue };
            let at = entry_at(header.l1, index);
            if !used.take(l2 / header.cluster, table) {
                return doubly("L2 table lies in clusters in use", "L1 table", at);
            }
            for index in 0..header.entries.get() {
                let Content::Plain(host) = self.cluster(l2, index)? else {
                    continue;
                };
                let at = entry_at(l2, index);
                if host >= self.file_size {
                    return doubly("cluster lies past the end of the file", "L2 table", at);
                }
                if !used.take(host / header.cluster, 1) {
                    return doubly("cluster is in use already", "L2 table", at);
                }
            }
        }
        Ok(())
    }
}
