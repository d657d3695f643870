//! Replay of a log that is not clean, in memory, as Linux does it at mount.
//!
//! Source: "XFS Algorithms & Data Structures", chapter "Journaling Log"; structures of Linux
//! `fs/xfs/libxfs/xfs_log_format.h`. Between the tail and the head of the log (`ring`) lie records;
//! their operations make up transactions (`transaction`), and the items of those that were
//! committed are applied in order (`apply`, `inode`): changed parts of buffers, inodes, and fresh
//! inode chunks. Buffers that were freed later (cancelled) and what is already newer on the disk are
//! left alone.
//!
//! Left out because no reader sees it: quotas, the list of unlinked inodes, allocation groups' own
//! trees after an unfinished free, reverse-map or reference-count intent. Refused by name: intents
//! that leave a file's mapping or attributes unfinished, logs of version 4 (no kernel was at hand to
//! judge their replay), unknown items, logs of big-endian hosts,
//! and more live log than memory should hold.

mod apply;
mod inode;
mod ring;
mod transaction;

use std::collections::BTreeSet;
use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

use self::apply::Replay;
use self::ring::Ring;
use self::transaction::{Item, Transaction, kind};
use super::Sectors;
use super::superblock::Superblock;

const NAME: &str = "log";

/// `sb_features_log_incompat`: the log holds attribute intents, which are items of their own.
const LOG_INCOMPAT_XATTRS: u32 = 1;

/// What can be done about a log that is not replayed here.
const HINT: &str = "mount and unmount the filesystem once under Linux, or run xfs_repair on a copy";

/// `disk` with the log of `sb` replayed, and the sectors that changed; `None` when it is clean.
pub(super) fn replay(
    sb: &Superblock,
    disk: &Arc<dyn Disk>,
) -> Result<Option<(Arc<dyn Disk>, Sectors)>> {
    let Some(records) = Ring::new(sb, disk).live()? else {
        return Ok(None);
    };
    if !sb.v5 {
        return Err(unsupported(
            "is not clean, on a version 4 filesystem".to_owned(),
        ));
    }
    let unknown = sb.log_incompat & !LOG_INCOMPAT_XATTRS;
    if unknown != 0 {
        return Err(unsupported(format!(
            "has unknown incompatible features {unknown:#x}"
        )));
    }
    let transactions = transaction::assemble(&records)?;
    drop(records);
    let items = transactions
        .iter()
        .map(Transaction::items)
        .collect::<Result<Vec<_>>>()?;
    check_intents(&items)?;
    let mut replay = Replay::new(sb, disk);
    for item in items.iter().flatten() {
        replay.note_cancel(item)?;
    }
    for (transaction, items) in transactions.iter().zip(&items) {
        // Linux's order within a transaction: buffers and fresh chunks, inodes, cancels.
        for stage in 0..3u8 {
            for item in items.iter().filter(|item| item.stage() == stage) {
                replay.apply(item, transaction.lsn)?;
            }
        }
    }
    Ok(Some(replay.finish()))
}

/// Fails when an intent that readers would notice has no done item.
fn check_intents(items: &[Vec<Item<'_>>]) -> Result<()> {
    let mut open = BTreeSet::new();
    for item in items.iter().flatten() {
        let known = kind::NOTICED
            .iter()
            .find(|(intent, done, _)| item.kind == *intent || item.kind == *done);
        if let Some((intent, _, what)) = known {
            let id = item.format()?.u64_le(8)?;
            if item.kind == *intent {
                open.insert((*intent, id, *what));
            } else {
                open.remove(&(*intent, id, *what));
            }
        }
    }
    match open.first() {
        None => Ok(()),
        Some((_, _, what)) => Err(unsupported(format!("holds an unfinished {what}"))),
    }
}

fn unsupported(what: String) -> Error {
    Error::unsupported(format!("{what}, so that it cannot be replayed"))
        .in_structure(NAME)
        .hint(HINT)
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::corrupt(what).in_structure(NAME).hint(HINT)
}
