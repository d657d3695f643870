//! From an image file to an [`Edit`]: what cannot be changed in place is refused here, by name.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rehost_block::{Disk, Error, Opener, Result, Storage, StorageMut};

use super::super::check;
use super::super::entry::Rules;
use super::super::header::Header;
use super::super::snapshot_table::SnapshotTable;
use super::super::tables::words;
use super::super::{backing_format, data_file_name, local_name};
use super::Edit;
use super::pages::Pages;
use super::room::Room;
use crate::Image;
use crate::check::{Check, Severity};
use crate::in_place::Editing;

/// Opens the image that `editing` names.
pub(in super::super) fn open(editing: &Editing<'_>) -> Result<Edit> {
    // One look refuses what is no qcow2 image, or encrypted, before anything is changed.
    Header::read(&*editing.storage)?;
    refuse_damaged(&check::prepare(&editing.storage)?)?;
    let header = Header::read(&*editing.storage)?;
    let data = data_file(editing, &header)?;
    let parent = parent(&header, editing.path, editing.opener);
    let parent_size = match &parent {
        Some(Ok(parent)) => Some(parent.size()),
        _ => None,
    };
    let storage: &dyn Storage = &*editing.storage;
    Ok(Edit {
        rules: Rules {
            geometry: header.geometry,
            zero_clusters: header.version > 2,
            data_file: data.is_some(),
        },
        l1: words(storage, header.l1_offset, header.l1_entries)?,
        l2: Mutex::new(Pages::new(&header.geometry)),
        room: Room::read(&header, Arc::clone(&editing.storage))?,
        snapshots: SnapshotTable::read(&header, storage)?,
        codec: header.compression.codec(),
        parent: parent.map(|parent| parent.map_err(|error| error.to_string())),
        parent_size,
        begun: Vec::new(),
        file: Arc::clone(&editing.storage),
        data,
        header,
    })
}

/// A refcount that is too low would make a writer overwrite what is in use.
fn refuse_damaged(check: &Check) -> Result<()> {
    let damage = |severity| {
        check
            .findings
            .iter()
            .find(move |finding| finding.severity == severity)
    };
    match damage(Severity::Corruption) {
        None => Ok(()),
        Some(finding) => Err(Error::corrupt(format!(
            "image is damaged and cannot be changed: {}",
            finding.text
        ))
        .in_structure(finding.structure)
        .at(finding.offset)
        .hint("repair it first with rehost check --repair")),
    }
}

/// The data file, opened for writing.
pub(in super::super) fn data_file(
    editing: &Editing<'_>,
    header: &Header,
) -> Result<Option<Arc<dyn StorageMut>>> {
    let Some(name) = data_file_name(header)? else {
        return Ok(None);
    };
    let opened = editing.opener.open(&name, editing.path)?;
    if opened.path == editing.path {
        return Err(
            Error::corrupt("names itself as its data file").in_structure("header extension")
        );
    }
    editing.files.open(&opened.path).map(Some)
}

/// The disk below, which is only needed for the last cluster when the disk grows: a parent that
/// cannot be opened is no reason yet to refuse the image.
fn parent(header: &Header, path: &Path, opener: &dyn Opener) -> Option<Result<Arc<dyn Disk>>> {
    let name = header.backing_file.as_deref()?;
    let open = || {
        let name = local_name(name, "backing file")?;
        let format = header.backing_format.as_deref().map(backing_format);
        let opened = opener.open(&name, path)?;
        if opened.path == path {
            return Err(Error::corrupt("names itself as its backing file"));
        }
        let image = Image::from_storage(opened.path, opened.storage, format.transpose()?, opener)?;
        Ok(image.disk())
    };
    Some(open())
}
