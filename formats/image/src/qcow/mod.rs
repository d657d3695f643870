//! QCOW, version 1 of QEMU's copy-on-write format, which QCOW2 replaced in 2006: read only.
//!
//! There is no document of it; the layout is that of the header and entries that QEMU's `qemu-img
//! create -f qcow` writes, and the limits are QEMU's. Read: every cluster size, compressed clusters,
//! backing files (whose format is not named, so that their content decides).
//!
//! Left out on purpose, refused by name: encryption (AES), and writing.

mod header;
mod layer;

use std::sync::Arc;

use rehost_block::Result;

use crate::Format;
use crate::details::{Details, QcowDetails};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};
use crate::qcow2::local_name;
use header::Header;
pub(crate) use header::is_qcow;
use layer::Qcow;

/// Opens one file of a chain.
///
/// # Errors
/// Unsupported, by name, for encrypted images; Corrupt for a header that contradicts itself or the
/// file.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let header = Header::read(&*opening.storage)?;
    let backing = header.backing_file.as_deref().map(|name| {
        Ok::<_, rehost_block::Error>(Backing {
            name: local_name(name, "backing file")?,
            format: None,
        })
    });
    let description = LayerDescription {
        path: opening.path.to_owned(),
        format: Format::Qcow,
        sniffed: false,
        wrapper: None,
        virtual_size: header.size,
        file_size: opening.storage.size(),
        unit: Some(header.cluster.get()),
        compression: Some("zlib"),
        backing: backing.transpose()?,
        details: Details::Qcow(QcowDetails {
            l2_entries: header.l2_entries.get(),
            backing_modified: header.backing_modified,
        }),
    };
    Ok(OpenedLayer {
        layer: Arc::new(Qcow::new(header, Arc::clone(&opening.storage))),
        description,
        files: Vec::new(),
    })
}
