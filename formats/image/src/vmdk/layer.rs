//! `Vmdk`: the extents of a descriptor joined to one layer.

use std::ops::Range;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Presence, Result, Run, Storage};

use super::SECTOR;
use super::sparse::SparseExtent;

/// One image of a VMDK chain: what its descriptor lists, in order.
#[derive(Debug)]
pub(super) struct Joined {
    parts: Vec<Part>,
    size: u64,
}

/// An extent at its place in the disk.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    pub(super) body: Body,
}

/// Where an extent's bytes are.
#[derive(Debug)]
pub(super) enum Body {
    Zero,
    /// From this byte of the storage.
    Flat(Arc<dyn Storage>, u64),
    Sparse(SparseExtent),
    /// `NOACCESS`, by its line in the descriptor: the guest got an error here, and so does a copy.
    Forbidden(u64),
}

impl Joined {
    /// `parts` must follow each other without a gap from 0.
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let size = parts.last().map_or(0, |part| part.range.end);
        Self { parts, size }
    }
}

impl Layer for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let after = self.parts.partition_point(|part| part.range.end <= offset);
        let Some(part) = self.parts.get(after) else {
            return Ok(Located::new(Run::End, 0));
        };
        let within = offset.saturating_sub(part.range.start);
        let want = want.min(part.range.end.saturating_sub(offset));
        match &part.body {
            Body::Zero => Ok(Located::new(Run::Zero, want)),
            Body::Sparse(sparse) => sparse.locate(within, want),
            Body::Flat(storage, start) => {
                let at = start.saturating_add(within);
                let (presence, len) = storage.presence(at, want)?;
                let run = match presence {
                    Presence::Hole => Run::Zero,
                    Presence::Data => Run::At {
                        storage: Arc::clone(storage),
                        offset: at,
                    },
                };
                Ok(Located::new(run, len.min(want)))
            }
            Body::Forbidden(line) => Err(Error::unsupported(format!(
                "extent of {} sectors is marked NOACCESS in line {line} of the descriptor",
                part.range.end.saturating_sub(part.range.start) / SECTOR
            ))
            .in_structure("extent")
            .hint("no guest could read it either: mark it RDONLY, or ZERO to leave it out")),
        }
    }
}
