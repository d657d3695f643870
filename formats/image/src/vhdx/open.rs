//! Opening a VHDX: header, log, regions, metadata, and the check that the parent is the right one.
//!
//! \[MS-VHDX\] §2.3: nothing but the headers may be read before the log is replayed.

use std::path::PathBuf;
use std::sync::Arc;

use rehost_block::{Error, Kind, Opened, Result, Storage};
use uuid::Uuid;

use super::header::Header;
use super::layer::{Absent, Vhdx};
use super::locator::Locator;
use super::log;
use super::metadata::Metadata;
use super::patched::Patched;
use super::region::Regions;
use super::{MIB, Taken};
use crate::Format;
use crate::details::{Details, VhdxDetails, VhdxKind};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};

/// Opens one image of a chain.
///
/// # Errors
/// Usage when the opener refuses the parent; Io when it cannot be opened; Unsupported and Corrupt
/// by name, structure and offset.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let file = &opening.storage;
    let Structures {
        header,
        patched,
        replayed,
        regions,
        metadata,
        taken,
    } = Structures::read(file)?;
    let geometry = metadata.geometry;
    let backing = match &metadata.parent {
        None => None,
        Some(parent) => Some(check_parent(opening, parent)?),
    };
    let (absent, kind) = match (&backing, metadata.leave_allocated) {
        (Some(_), _) => (Absent::Below, VhdxKind::Differencing),
        (None, true) => (Absent::Zero, VhdxKind::Fixed),
        (None, false) => (Absent::Zero, VhdxKind::Dynamic),
    };
    Ok(OpenedLayer {
        description: LayerDescription {
            path: opening.path.to_owned(),
            format: Format::Vhdx,
            sniffed: false,
            wrapper: None,
            virtual_size: geometry.size,
            file_size: file.size(),
            unit: Some(geometry.block.get()),
            compression: None,
            backing,
            details: Details::Vhdx(VhdxDetails {
                kind,
                logical_sector: u32::try_from(geometry.sector.get()).unwrap_or(u32::MAX),
                physical_sector: metadata.physical_sector,
                disk_id: metadata.disk_id,
                data_write_guid: header.data_write,
                replayed,
            }),
        },
        layer: Arc::new(Vhdx::new(
            Arc::clone(file),
            patched,
            geometry,
            regions.bat.offset,
            absent,
            taken,
        )),
        files: Vec::new(),
    })
}

/// What one file says of itself, once its log is replayed.
#[derive(Debug)]
pub(super) struct Structures {
    pub(super) header: Header,
    pub(super) patched: Arc<Patched>,
    /// Log entries that were replayed.
    pub(super) replayed: usize,
    pub(super) regions: Regions,
    pub(super) metadata: Metadata,
    /// Where no block may lie.
    pub(super) taken: Vec<Taken>,
}

impl Structures {
    /// Reads those of `file`, which must agree with each other.
    ///
    /// # Errors
    /// Unsupported and Corrupt by name, structure and offset.
    pub(super) fn read(file: &Arc<dyn Storage>) -> Result<Self> {
        let header = Header::read(&**file)?;
        let (patched, replayed) = log::replay(Arc::clone(file), &header)?;
        let patched = Arc::new(patched);
        let mut taken = vec![
            Taken::new("headers", 0, MIB),
            Taken::new("log", header.log_offset, header.log_len),
        ];
        let regions = Regions::read(&*patched, &mut taken)?;
        let metadata = Metadata::read(&*patched, regions.metadata)?;
        let needed = metadata
            .geometry
            .entries(metadata.parent.is_some())
            .saturating_mul(8);
        if regions.bat.len < needed {
            return Err(Error::corrupt("is too short for the disk")
                .in_structure("block allocation table")
                .at(regions.bat.offset)
                .mismatch(format!("at least {needed} bytes"), regions.bat.len));
        }
        Ok(Self {
            header,
            patched,
            replayed,
            regions,
            metadata,
            taken,
        })
    }
}

/// Finds the parent and compares its `DataWriteGuid` with what the child remembers.
fn check_parent(opening: &Opening<'_>, parent: &Locator) -> Result<Backing> {
    let (name, opened) = find_parent(opening, parent)?;
    let header = Header::read(&*opened.storage).map_err(|error| error.in_file(&opened.path))?;
    if !parent.linkages.contains(&header.data_write) {
        let expected: Vec<String> = parent.linkages.iter().map(Uuid::to_string).collect();
        return Err(Error::corrupt(format!(
            "parent {} was changed after this disk was made from it",
            opened.path.display()
        ))
        .in_structure("parent locator")
        .mismatch(
            format!("data write GUID {}", expected.join(" or ")),
            header.data_write,
        )
        .hint("restore the parent as it was: with another one the data would be wrong"));
    }
    Ok(Backing {
        name,
        format: Some(Format::Vhdx),
    })
}

/// Opens the parent by the first of its paths that exists.
fn find_parent(opening: &Opening<'_>, parent: &Locator) -> Result<(PathBuf, Opened)> {
    let mut missing = None;
    for path in &parent.paths {
        match opening.opener.open(path, opening.path) {
            Ok(opened) => return Ok((path.clone(), opened)),
            // A parent that is there and not allowed is the user's decision, not another path's.
            Err(error) if error.kind() != Kind::Io => return Err(error),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    Err(missing.unwrap_or_else(|| Error::internal("a parent locator without a path")))
}
