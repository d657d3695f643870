//! Opening a VHD: the footer says what it is; a differencing disk also finds its parent.

use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Presence, Result, Run, Storage};

use super::footer::{DiskType, Footer, SizeRule};
use super::header::Header;
use super::parent::{check_parent, text_id};
use super::sparse::{Absent, Sparse};
use crate::Format;
use crate::details::{Details, VhdDetails};
use crate::layer::{LayerDescription, OpenedLayer, Opening};

/// Opens one image of a chain.
///
/// # Errors
/// As [`Footer::find`], [`Header::read`] and [`check_parent`].
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let storage = &opening.storage;
    let found = Footer::find(&**storage)?;
    let footer = &found.footer;
    let (size, rule) = footer.size();
    let header = || Header::read(&**storage, footer.data_offset, size);
    let sparse =
        |header: Header, absent| Sparse::open(Arc::clone(storage), header, size, found.end, absent);
    let mut unit = None;
    let mut backing = None;
    let layer: Arc<dyn Layer> = match footer.disk_type {
        DiskType::Fixed => Arc::new(Fixed::new(Arc::clone(storage), size, found.end)?),
        DiskType::Dynamic => {
            let header = header()?;
            unit = Some(header.block.get());
            Arc::new(sparse(header, Absent::Zero)?)
        }
        DiskType::Differencing => {
            let header = header()?;
            unit = Some(header.block.get());
            backing = Some(check_parent(opening, footer, &header.parent)?);
            Arc::new(sparse(header, Absent::Below)?)
        }
    };
    Ok(OpenedLayer {
        layer,
        description: LayerDescription {
            path: opening.path.to_owned(),
            format: Format::Vhd,
            sniffed: false,
            wrapper: None,
            virtual_size: size,
            file_size: storage.size(),
            unit,
            compression: None,
            backing,
            details: Details::Vhd(VhdDetails {
                disk_type: match footer.disk_type {
                    DiskType::Fixed => "fixed",
                    DiskType::Dynamic => "dynamic",
                    DiskType::Differencing => "differencing",
                },
                creator: String::from_utf8_lossy(&footer.creator)
                    .trim_end_matches(['\0', ' '])
                    .to_owned(),
                size_from: match rule {
                    SizeRule::CurrentSize => "current_size",
                    SizeRule::Geometry => "geometry",
                },
                unique_id: text_id(footer.unique_id),
                timestamp: footer.timestamp,
                footer_from_copy: found.from_copy,
            }),
        },
        files: Vec::new(),
    })
}

/// A fixed disk: the guest's bytes before the footer.
#[derive(Debug)]
pub(super) struct Fixed {
    storage: Arc<dyn Storage>,
    size: u64,
}

impl Fixed {
    /// The disk of `size` bytes before the footer at `end`.
    ///
    /// # Errors
    /// As [`fits`].
    pub(super) fn new(storage: Arc<dyn Storage>, size: u64, end: u64) -> Result<Self> {
        fits(size, end)?;
        Ok(Self { storage, size })
    }
}

/// A fixed disk of `size` bytes lies before its footer at `end`.
///
/// # Errors
/// Corrupt when it does not.
pub(super) fn fits(size: u64, end: u64) -> Result<()> {
    if size <= end {
        return Ok(());
    }
    Err(Error::corrupt("disk is shorter than its footer says")
        .in_structure("hard disk footer")
        .at(end)
        .mismatch(format!("{size} bytes before the footer"), end)
        .hint("the file is truncated or damaged: copy it again from its origin"))
}

impl Layer for Fixed {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let want = want.min(left);
        let (presence, len) = self.storage.presence(offset, want)?;
        let run = match presence {
            Presence::Hole => Run::Zero,
            Presence::Data => Run::At {
                storage: Arc::clone(&self.storage),
                offset,
            },
        };
        Ok(Located::new(run, len.min(want)))
    }
}
