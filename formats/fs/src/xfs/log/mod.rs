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
//! that leave a file's mapping or attributes unfinished, inodes of version 4 (no kernel was at hand to
//! judge their replay), unknown items, logs of big-endian hosts, and more live log than memory should hold. Before a filesystem is written its log is replayed onto the
//! disk (`settle`), where more is refused; what is written goes through the log again (`append`).

pub(super) mod append;
mod apply;
mod inode;
mod ring;
mod settle;
mod transaction;

use std::collections::BTreeSet;
use std::sync::Arc;

use rehost_block::{Disk, Error, Result};

pub(super) use self::append::{Appended, Changed};
use self::apply::Replay;
pub(super) use self::ring::Position;
use self::ring::{Record, Ring};
pub(super) use self::settle::settle;
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
    let Some(records) = Ring::new(sb, disk).survey()?.live else {
        return Ok(None);
    };
    let replay = replayed(sb, disk, &records, check_noticed)?;
    Ok(Some(replay.finish()))
}

/// The changes of `records`, which `check` may refuse.
fn replayed<'a>(
    sb: &'a Superblock,
    disk: &Arc<dyn Disk>,
    records: &[Record],
    check: fn(&[Vec<Item<'_>>]) -> Result<()>,
) -> Result<Replay<'a>> {
    let unknown = sb.log_incompat & !LOG_INCOMPAT_XATTRS;
    if unknown != 0 {
        return Err(unsupported(format!(
            "has unknown incompatible features {unknown:#x}"
        )));
    }
    let transactions = transaction::assemble(records)?;
    let items = transactions
        .iter()
        .map(Transaction::items)
        .collect::<Result<Vec<_>>>()?;
    check(&items)?;
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
    Ok(replay)
}

/// Fails when an intent that readers would notice has no done item.
fn check_noticed(items: &[Vec<Item<'_>>]) -> Result<()> {
    check_intents(items, kind::NOTICED)
}

/// Fails when one of these intents has no done item.
fn check_intents(items: &[Vec<Item<'_>>], intents: &[(u16, u16, &str)]) -> Result<()> {
    let mut open = BTreeSet::new();
    for item in items.iter().flatten() {
        let known = intents
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
