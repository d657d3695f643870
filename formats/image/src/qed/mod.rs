//! QED, the QEMU enhanced disk format of 2010: read only.
//!
//! QEMU `docs/interop/qed_spec.txt`. Read: every cluster and table size, zero clusters, backing
//! files. An image whose tables may have been torn by a crash (`QED_F_NEED_CHECK`) is read after all
//! of them have been looked at: an entry that leads nowhere, or to where another one leads, is an
//! error then, not only when its bytes are wanted.
//!
//! Left out on purpose: writing and repair.

mod check;
mod header;
mod layer;

use std::sync::Arc;

use rehost_block::{Error, Result};

use crate::Format;
use crate::details::{Details, QedDetails};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};
use crate::qcow2::local_name;
use header::Header;
pub(crate) use header::is_qed;
use layer::Qed;

/// Opens one file of a chain.
///
/// # Errors
/// Unsupported, by name, for unknown features; Corrupt for a header that contradicts itself or the
/// file, and for damaged tables of an image that asks to be checked.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let header = Header::read(&*opening.storage)?;
    let backing = header.backing_file.as_deref().map(|name| {
        Ok::<_, Error>(Backing {
            name: local_name(name, "backing file")?,
            format: header.backing_is_raw.then_some(Format::Raw),
        })
    });
    let description = LayerDescription {
        path: opening.path.to_owned(),
        format: Format::Qed,
        sniffed: false,
        wrapper: None,
        virtual_size: header.size,
        file_size: opening.storage.size(),
        unit: Some(header.cluster.get()),
        compression: None,
        backing: backing.transpose()?,
        details: Details::Qed(QedDetails {
            table_clusters: header.table_clusters,
            need_check: header.need_check,
        }),
    };
    let layer = Qed::new(header, Arc::clone(&opening.storage));
    layer.check_if_needed()?;
    Ok(OpenedLayer {
        layer: Arc::new(layer),
        description,
        files: Vec::new(),
    })
}
