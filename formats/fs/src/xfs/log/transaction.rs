//! Transactions of the log: operations joined by their number, and the items they consist of.

use std::collections::BTreeMap;

use rehost_block::{Fields, Result};

use super::ring::Record;
use super::{corrupt, unsupported};
use crate::number::index;

/// Kinds of items.
pub(super) mod kind {
    pub(in super::super) const INODE: u16 = 0x123b;
    pub(in super::super) const BUFFER: u16 = 0x123c;
    pub(in super::super) const FRESH_INODES: u16 = 0x123f;
    /// Free, reverse-map and reference-count intents with their ends, quotas, unlinked inodes.
    pub(in super::super) const UNNOTICED: &[u16] = &[
        0x1236, 0x1237, 0x1238, 0x123d, 0x123e, 0x1240, 0x1241, 0x1242, 0x1243,
    ];
    /// Those of them that only a writer must finish: as [`NOTICED`].
    pub(in super::super) const UNFINISHED: &[(u16, u16, &str)] = &[
        (0x1236, 0x1237, "release of blocks"),
        (0x1240, 0x1241, "change of owners of blocks"),
        (0x1242, 0x1243, "change of counts of shared blocks"),
    ];
    /// Changes of quotas.
    pub(in super::super) const QUOTAS: &[u16] = &[0x123d, 0x123e];
    /// Intent, its end, and what is unfinished between them.
    pub(in super::super) const NOTICED: &[(u16, u16, &str)] = &[
        (0x1244, 0x1245, "change of a file's extents"),
        (0x1246, 0x1247, "change of extended attributes"),
        (0x1248, 0x1249, "exchange of two files' extents"),
    ];
}

/// Flags of an operation.
pub(super) mod flag {
    pub(in super::super) const START: u8 = 0x01;
    pub(in super::super) const COMMIT: u8 = 0x02;
    pub(in super::super) const CONTINUES: u8 = 0x04;
    pub(in super::super) const CONTINUED: u8 = 0x08;
    pub(in super::super) const UNMOUNT: u8 = 0x20;
}

/// Who writes operations: transactions, and the log itself.
pub(super) const CLIENT_TRANSACTION: u8 = 0x69;
pub(super) const CLIENT_LOG: u8 = 0xaa;

/// `th_magic`.
pub(super) const MAGIC: u32 = 0x5452_414e;

/// A buffer item's flag: the buffer was freed.
const CANCEL: u16 = 0x2;

/// A committed transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Of the record in which it began.
    pub(super) lsn: u64,
    regions: Vec<Vec<u8>>,
}

/// A change.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) kind: u16,
    /// The first says what the others are.
    pub(super) regions: &'a [Vec<u8>],
}

impl Item<'_> {
    /// The region that says what the item is.
    pub(super) fn format(&self) -> Result<Fields<'_>> {
        let first = self.regions.first();
        let first = first.ok_or_else(|| corrupt("item without a region"))?;
        Ok(Fields::new(first, "log item", 0))
    }

    /// Whether it frees a buffer.
    pub(super) fn is_cancel(&self) -> bool {
        self.kind == super::transaction::kind::BUFFER
            && self
                .format()
                .and_then(|f| f.u16_le(4))
                .is_ok_and(|flags| flags & CANCEL != 0)
    }

    /// Which part of its transaction it is applied with.
    pub(super) fn stage(&self) -> u8 {
        match self.kind {
            kind::BUFFER if self.is_cancel() => 2,
            kind::BUFFER | kind::FRESH_INODES => 0,
            _ => 1,
        }
    }
}

/// The transactions that begin and are committed in `records`, in the order of their commits. One
/// that began before is on the disk already.
pub(super) fn assemble(records: &[Record]) -> Result<Vec<Transaction>> {
    let mut open: BTreeMap<u32, Transaction> = BTreeMap::new();
    let mut done = Vec::new();
    for record in records {
        let f = Fields::new(&record.body, "log record", 0);
        let mut at = 0usize;
        for _ in 0..record.operations {
            let number = f.u32_be(at)?;
            let len = index(f.u32_be(at.saturating_add(4))?);
            let client = f.u8(at.saturating_add(8))?;
            let flags = f.u8(at.saturating_add(9))?;
            let region = f.bytes(at.saturating_add(12), len)?;
            at = at.saturating_add(12).saturating_add(len);
            if client == CLIENT_LOG || flags & flag::UNMOUNT != 0 {
                continue;
            }
            if client != CLIENT_TRANSACTION {
                return Err(corrupt(format!("operation of unknown client {client:#x}")));
            }
            if flags & flag::START != 0 {
                let begun = Transaction {
                    lsn: record.lsn,
                    regions: Vec::new(),
                };
                open.insert(number, begun);
            } else if flags & flag::COMMIT != 0 {
                done.extend(open.remove(&number));
            } else if let Some(transaction) = open.get_mut(&number) {
                match transaction.regions.last_mut() {
                    // The rest of a region that did not fit into the record before.
                    Some(last) if flags & flag::CONTINUED != 0 => last.extend(region),
                    _ if flags & flag::CONTINUED != 0 => {
                        return Err(corrupt("operation continues nothing"));
                    }
                    // A region cut before its first byte comes again as a continued one.
                    _ if len > 0 || flags & flag::CONTINUES != 0 => {
                        transaction.regions.push(region.to_vec());
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(done)
}

impl Transaction {
    /// Its items.
    pub(super) fn items(&self) -> Result<Vec<Item<'_>>> {
        let (header, mut rest) = match self.regions.split_first() {
            Some(parts) => parts,
            None => return Ok(Vec::new()),
        };
        if Fields::new(header, "transaction header", 0).u32_le(0)? != MAGIC {
            return Err(corrupt("transaction has no header"));
        }
        let mut items = Vec::new();
        // Ends because every item takes at least one region off `rest`.
        while let Some(first) = rest.first() {
            let f = Fields::new(first, "log item", 0);
            let (kind, count) = (f.u16_le(0)?, usize::from(f.u16_le(2)?).max(1));
            let known = matches!(kind, kind::INODE | kind::BUFFER | kind::FRESH_INODES)
                || kind::UNNOTICED.contains(&kind)
                || kind::NOTICED
                    .iter()
                    .any(|(intent, done, _)| kind == *intent || kind == *done);
            if !known {
                return Err(unsupported(format!(
                    "holds an item of unknown kind {kind:#x}"
                )));
            }
            let (regions, left) = rest
                .split_at_checked(count)
                .ok_or_else(|| corrupt("item has more regions than its transaction"))?;
            items.push(Item { kind, regions });
            rest = left;
        }
        Ok(items)
    }
}
