//! What an image being changed holds now.

use std::sync::{Arc, PoisonError};

use rehost_block::{Layer, Located, Result, Run, Storage, StorageMut};

use super::Edit;
use super::tables::entry_of;
use crate::words::{Content, Held, Stretch};

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
            content: content.into(),
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
        let found = Stretch::join(offset, want.min(left), u64::MAX, |at| self.stretch(at))?;
        let absent = match self.header.backing_file {
            Some(_) => Run::Below,
            None => Run::Zero,
        };
        let file: Arc<dyn Storage> = Arc::<dyn StorageMut>::clone(&self.file);
        let data: Arc<dyn Storage> = match &self.data {
            Some(data) => Arc::<dyn StorageMut>::clone(data),
            None => Arc::clone(&file),
        };
        let held = Held {
            plain: &data,
            packed: &file,
            packed_size: file.size(),
            codec: &self.codec,
            unit: self.rules.geometry.unit(),
        };
        let within = self.rules.geometry.position(offset).within;
        let run = found.content.run(&held, absent, within);
        Ok(Located::new(run, found.len))
    }
}
