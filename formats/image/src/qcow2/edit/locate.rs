//! What an image being changed holds now.

use std::sync::{Arc, PoisonError};

use rehost_block::{Layer, Located, Packed, Result, Run, Storage, StorageMut};

use super::super::entry::{Content, HostOffset};
use super::super::layer::Stretch;
use super::Edit;
use super::tables::entry_of;

impl Edit {
    fn stretch(&self, offset: u64) -> Result<Stretch> {
        let geometry = &self.rules.geometry;
        let position = geometry.position(offset);
        let left = self.header.size.saturating_sub(offset);
        let Some(l2) = self.l2(position.l1) else {
            let rest = geometry
                .l2_entries()
                .saturating_sub(position.l2)
                .saturating_mul(geometry.cluster_size())
                .saturating_sub(position.within);
            return Ok(Stretch {
                content: Content::Unallocated,
                len: rest.min(left),
            });
        };
        let mut pages = self.l2.lock().unwrap_or_else(PoisonError::into_inner);
        let table = pages.read(&*self.file, l2)?;
        let raw = entry_of(table, geometry.extended(), position.l2)?;
        let (content, len) = self.rules.read(raw, position.within).map_err(|fault| {
            let place = position.l2.saturating_mul(geometry.entry_bytes());
            rehost_block::Error::corrupt(fault)
                .in_structure("L2 table")
                .at(l2.saturating_add(place))
                .in_file(self.file.name())
        })?;
        Ok(Stretch {
            content,
            len: len.min(left),
        })
    }
}

impl Layer for Edit {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.header.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let mut found = self.stretch(offset)?;
        // Ends because every stretch has at least one byte and `want` is finite.
        while found.len < want {
            let next = self.stretch(offset.saturating_add(found.len))?;
            match found.join(next) {
                Some(joined) if next.len > 0 => found = joined,
                _ => break,
            }
        }
        let run = match found.content {
            Content::Unallocated if self.header.backing_file.is_some() => Run::Below,
            Content::Unallocated | Content::Zero => Run::Zero,
            Content::Plain(HostOffset(host)) => {
                let storage: Arc<dyn Storage> = match &self.data {
                    Some(data) => Arc::<dyn StorageMut>::clone(data),
                    None => Arc::<dyn StorageMut>::clone(&self.file),
                };
                Run::At {
                    storage,
                    offset: host,
                }
            }
            Content::Packed { offset: host, len } => Run::Packed(Packed {
                storage: Arc::<dyn StorageMut>::clone(&self.file),
                offset: host.0,
                len: len.min(self.file.size().saturating_sub(host.0)),
                codec: Arc::clone(&self.codec),
                unit: self.rules.geometry.unit(),
                skip: self.rules.geometry.position(offset).within,
            }),
        };
        Ok(Located::new(run, found.len.min(want)))
    }
}
