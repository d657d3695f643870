//! `RawEdit`: a raw image changed in place.

use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Presence, Result, Run, Storage, StorageMut};

use super::UNIT;
use crate::create::TargetBacking;
use crate::in_place::{Editing, LayerMut};

/// A raw image that can be changed.
#[derive(Debug)]
struct RawEdit {
    storage: Arc<dyn StorageMut>,
    readable: Arc<dyn Storage>,
    /// A storage keeps the length that it was opened with.
    size: u64,
}

/// Opens a raw image for changes.
pub(crate) fn edit(editing: &Editing<'_>) -> Box<dyn LayerMut> {
    let readable: Arc<dyn Storage> = editing.storage.clone();
    Box::new(RawEdit {
        size: readable.size(),
        readable,
        storage: Arc::clone(&editing.storage),
    })
}

impl RawEdit {
    fn inside(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::usage("range reaches past the end of the disk").at(offset)),
        }
    }
}

impl Layer for RawEdit {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size.saturating_sub(offset).min(want);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let (presence, len) = self.storage.presence(offset, left)?;
        let run = match presence {
            Presence::Data => Run::At {
                storage: Arc::clone(&self.readable),
                offset,
            },
            Presence::Hole => Run::Zero,
        };
        Ok(Located::new(run, len.min(left)))
    }
}

impl LayerMut for RawEdit {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        self.inside(offset, u64::try_from(plain.len()).unwrap_or(u64::MAX))?;
        self.storage.write_at(plain, offset)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.inside(offset, len)?;
        self.storage.zero_at(offset, len)
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        self.zero(offset, len)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.storage.set_size(size)?;
        self.size = size;
        Ok(())
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        match backing {
            None => Ok(()),
            Some(_) => Err(Error::usage("raw images cannot have a backing file")
                .hint("convert it into qcow2 first")),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_place::EditFiles;
    use crate::{Format, edit};
    use rehost_block::{Memory, SameFolder};
    use std::path::{Path, PathBuf};

    #[derive(Debug)]
    struct NoFiles;

    impl EditFiles for NoFiles {
        fn open(&self, path: &Path) -> Result<Arc<dyn StorageMut>> {
            Err(Error::usage("no further file").in_file(path))
        }
    }

    #[test]
    fn a_raw_image_is_written_zeroed_and_resized_in_place() {
        let memory = Arc::new(Memory::new("raw", vec![1; 10_000]));
        let mut layer = edit(
            PathBuf::from("raw"),
            Format::Raw,
            memory.clone(),
            &SameFolder,
            &NoFiles,
        )
        .unwrap();
        layer.put(4096, &[2; 4096]).unwrap();
        layer.zero(0, 4096).unwrap();
        layer.resize(20_000).unwrap();
        layer.put(16_384, &[3; 3616]).unwrap();
        assert!(layer.put(16_384, &[3; 3617]).is_err());
        layer.flush().unwrap();
        let expected = [
            vec![0; 4096],
            vec![2; 4096],
            vec![1; 1808],
            vec![0; 6384],
            vec![3; 3616],
        ]
        .concat();
        assert!(memory.to_vec() == expected);
        layer.resize(4097).unwrap();
        assert!(memory.to_vec() == expected[..4097]);
        assert!(matches!(
            layer.locate(4097, 1).unwrap(),
            Located { run: Run::End, .. }
        ));
    }
}
