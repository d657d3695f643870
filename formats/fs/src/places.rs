//! Each directory has one place: what keeps a walk through a filesystem whose directories name each
//! other by position from going round in a ring.
//!
//! ISO 9660 and squashfs keep no count of links to check a tree with, and what a directory says of its
//! parent is as little to be trusted as its entries. But every directory is in one entry of one
//! directory. The first entry in which one is met keeps it; any other is refused. What is left is a
//! tree, whatever the disk says.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rehost_block::{Error, Result};

/// The entry in which each directory was met. Grows with the directories that are listed.
#[derive(Debug)]
pub(crate) struct Places {
    known: Mutex<HashMap<u64, (u64, u64)>>,
}

impl Places {
    /// Nothing was met but the root.
    pub(crate) fn new(root: u64) -> Self {
        Self {
            known: Mutex::new(HashMap::from([(root, (u64::MAX, u64::MAX))])),
        }
    }

    /// Notes that the directory at `dir` was met in the entry at `entry` of the directory at `parent`
    /// (directories that overlap share entries).
    pub(crate) fn claim(&self, dir: u64, parent: u64, entry: u64) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (parent, entry);
        if *known.entry(dir).or_insert(place) == place {
            return Ok(());
        }
        Err(Error::corrupt("a directory is in two places of the tree"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stays_where_it_was_met_first() {
        let places = Places::new(7);
        places.claim(8, 7, 100).unwrap();
        places.claim(8, 7, 100).unwrap();
        assert!(places.claim(8, 7, 101).is_err());
        assert!(places.claim(8, 8, 100).is_err(), "an entry that two share");
        assert!(
            places.claim(7, 8, 100).is_err(),
            "the root is in no directory"
        );
    }
}
