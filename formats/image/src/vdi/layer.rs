//! A VDI's answer to *where is this guest byte?*

use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, Run, Storage};

use super::header::{Header, ImageType};
use super::parent::find_parent;
use crate::Format;
use crate::details::{Details, VdiDetails};
use crate::layer::{LayerDescription, OpenedLayer, Opening};

/// From here on a map entry means a block that is not stored: `0xfffffffe` is one of zeroes,
/// `0xffffffff` one that was never written, which is the parent's, or zeroes where there is none.
pub(super) const ZERO: u32 = 0xffff_fffe;

/// An opened image.
#[derive(Debug)]
pub(super) struct Vdi {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) file_size: u64,
    pub(super) header: Header,
    pub(super) map: Vec<u32>,
}

/// What the map says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Stored from this byte of the file on.
    Stored(u64),
    Zero,
    Below,
}

/// The block map of the file behind `header`.
///
/// # Errors
/// Io or Corrupt when it cannot be read.
pub(super) fn read_map(storage: &dyn Storage, header: &Header) -> Result<Vec<u32>> {
    // The header compared its length with the file's.
    let len = usize::try_from(header.entries.saturating_mul(4))
        .map_err(|_| Error::unsupported("block map exceeds this machine's memory"))?;
    let mut bytes = vec![0; len];
    storage.read_at(&mut bytes, header.map)?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

/// Opens one image of a chain.
///
/// # Errors
/// As [`Header::read`] and [`find_parent`].
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let storage = &opening.storage;
    let header = Header::read(&**storage)?;
    let map = read_map(&**storage, &header)?;
    let stored = map.iter().filter(|entry| **entry < ZERO).count();
    let description = LayerDescription {
        path: opening.path.to_owned(),
        format: Format::Vdi,
        sniffed: false,
        wrapper: None,
        virtual_size: header.disk_size,
        file_size: storage.size(),
        unit: Some(header.block.get()),
        compression: None,
        backing: match header.parent {
            Some(parent) => Some(find_parent(opening, parent)?),
            None => None,
        },
        details: Details::Vdi(VdiDetails {
            image_type: match header.image_type {
                ImageType::Dynamic => "dynamic",
                ImageType::Static => "static",
                ImageType::Differencing => "differencing",
            },
            uuid: header.uuid.to_string(),
            modified: header.modified.to_string(),
            parent: header.parent.map(|parent| parent.uuid.to_string()),
            blocks_stored: u64::try_from(stored).unwrap_or(u64::MAX),
        }),
    };
    Ok(OpenedLayer {
        layer: Arc::new(Vdi {
            storage: Arc::clone(storage),
            file_size: storage.size(),
            header,
            map,
        }),
        description,
        files: Vec::new(),
    })
}

impl Vdi {
    fn block(&self, index: u64) -> Block {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.map.get(index))
            .copied()
            .unwrap_or(ZERO);
        if entry >= ZERO {
            return if entry > ZERO && self.header.parent.is_some() {
                Block::Below
            } else {
                Block::Zero
            };
        }
        let stride = self.header.block.get().saturating_add(self.header.extra);
        let start = u64::from(entry).saturating_mul(stride);
        Block::Stored(
            start
                .saturating_add(self.header.data)
                .saturating_add(self.header.extra),
        )
    }
}

impl Layer for Vdi {
    fn size(&self) -> u64 {
        self.header.disk_size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.header.disk_size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let block = self.header.block.get();
        let (index, within) = (offset / self.header.block, offset % self.header.block);
        let first = self.block(index);
        let mut count = 1u64;
        // Ends because `count` grows every round and `want` is finite.
        while count.saturating_mul(block).saturating_sub(within) < want {
            let follows = match first {
                Block::Stored(at) => Block::Stored(at.saturating_add(count.saturating_mul(block))),
                other => other,
            };
            if self.block(index.saturating_add(count)) != follows {
                break;
            }
            count = count.saturating_add(1);
        }
        let len = count.saturating_mul(block).saturating_sub(within).min(want);
        let at = match first {
            Block::Stored(at) => at.saturating_add(within),
            Block::Zero => return Ok(Located::new(Run::Zero, len)),
            Block::Below => return Ok(Located::new(Run::Below, len)),
        };
        // A truncated file is never read as zeroes; whole sectors before its end can be had.
        let there = self.file_size.saturating_sub(at);
        let len = if there >= len { len } else { there & !511 };
        if len == 0 {
            return Err(Error::corrupt("block lies past the end of the file")
                .in_structure("block map")
                .in_file(self.storage.name())
                .at(self.header.map.saturating_add(index.saturating_mul(4)))
                .mismatch(
                    format!("an end of at most {}", self.file_size),
                    at.saturating_add(1),
                )
                .hint("the file is truncated or damaged: copy it again from its origin"));
        }
        let run = Run::At {
            storage: Arc::clone(&self.storage),
            offset: at,
        };
        Ok(Located::new(run, len))
    }
}
