//! `map`: what a disk is made of, as merged extents.

use std::path::PathBuf;

use rehost_block::{Disk, Error, Located, Result, Run};
use serde::Serialize;

/// How an extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// As it is.
    Data,
    /// Not at all: it reads as zeroes.
    Zero,
    /// Compressed.
    Packed,
}

/// A stretch of the disk that is stored in one way. Offsets and lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Guest offset.
    pub start: u64,
    /// Guest length.
    pub length: u64,
    /// How it is stored.
    pub kind: Kind,
    /// In which file; none for zeroes.
    pub file: Option<PathBuf>,
    /// Where in the file; for packed extents, where the first unit is.
    pub offset: Option<u64>,
}

/// Walks `disk` from its start and gives its extents, neighbours of one kind in one file (and for
/// data one place) merged. Stops after the first error.
#[must_use]
pub fn map(disk: &dyn Disk) -> Map<'_> {
    Map {
        disk,
        at: 0,
        held: None,
    }
}

/// The iterator of [`map()`].
#[derive(Debug)]
pub struct Map<'a> {
    disk: &'a dyn Disk,
    at: u64,
    /// The extent that may still grow.
    held: Option<Extent>,
}

impl Map<'_> {
    fn step(&mut self) -> Result<Extent> {
        let left = self.disk.size().saturating_sub(self.at);
        let Located { run, len } = self.disk.locate(self.at, left)?;
        let (kind, file, offset) = match run {
            Run::At { storage, offset } => {
                (Kind::Data, Some(storage.name().to_owned()), Some(offset))
            }
            Run::Packed(packed) => (
                Kind::Packed,
                Some(packed.storage.name().to_owned()),
                Some(packed.offset),
            ),
            Run::Zero => (Kind::Zero, None, None),
            Run::Below | Run::End => {
                return Err(Error::internal("an unresolved run reached the map").at(self.at));
            }
        };
        if len == 0 {
            return Err(Error::internal("locate answered with an empty run").at(self.at));
        }
        let start = self.at;
        self.at += len;
        Ok(Extent {
            start,
            length: len,
            kind,
            file,
            offset,
        })
    }
}

fn follows(extent: &Extent, next: &Extent) -> bool {
    let same = extent.kind == next.kind && extent.file == next.file;
    same && match extent.kind {
        Kind::Zero | Kind::Packed => true,
        Kind::Data => extent.offset.map(|offset| offset + extent.length) == next.offset,
    }
}

impl Iterator for Map<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        // Ends because every step moves `at` towards the end of the disk.
        while self.at < self.disk.size() {
            let next = match self.step() {
                Ok(next) => next,
                Err(error) => {
                    self.at = u64::MAX;
                    self.held = None;
                    return Some(Err(error));
                }
            };
            match &mut self.held {
                Some(held) if follows(held, &next) => held.length += next.length,
                held => {
                    if let Some(done) = held.replace(next) {
                        return Some(Ok(done));
                    }
                }
            }
        }
        self.held.take().map(Ok)
    }
}
