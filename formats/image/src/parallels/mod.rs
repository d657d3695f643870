//! Parallels: expanding images (`.hds`, `.hdd`) and disk folders (`NAME.hdd/`), read only.
//!
//! QEMU `docs/interop/parallels.txt` for an image: header, block allocation table (BAT) and clusters,
//! in both kinds, `WithoutFreeSpace` and `WithouFreSpacExt`; `docs/interop/prl-xml.txt` for a folder:
//! its `DiskDescriptor.xml` names the images of each stretch of the disk and which one lies over
//! which. The state that the guest last wrote (the top snapshot) is what is read. An image that was
//! not closed is read after its whole BAT has been looked at.
//!
//! Left out on purpose: writing; older snapshots; the bits of dirty bitmaps, which are named in the
//! details, and the MD5 sum of the format extension that holds them. Refused by name: encrypted
//! folders, padded ones, and a snapshot's image without its folder.

mod bundle;
mod descriptor;
mod extension;
mod header;
mod layer;

use std::path::Path;

use rehost_block::{Error, Result};

pub(crate) use bundle::DESCRIPTOR;
use header::Header;
use layer::Expanding;

use crate::Format;
use crate::details::{Details, ParallelsDetails};
use crate::layer::{LayerDescription, OpenedLayer, Opening};

/// Bytes per sector, in which both kinds of file count.
const SECTOR: u64 = 512;

/// Opens an image, or a folder by its descriptor.
///
/// # Errors
/// Unsupported, by name, for what the module's header lists; Corrupt for what contradicts itself or
/// the files.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let mut head = [0; 16];
    let whole = opening.storage.size() >= 16;
    if whole {
        opening.storage.read_at(&mut head, 0)?;
    }
    if !header::is_image(&head) && whole && head.first() == Some(&b'<') {
        return bundle::open(opening);
    }
    refuse_lone_snapshot(opening)?;
    let header = Header::read(&*opening.storage)?;
    let extension = extension::read(&*opening.storage, &header)?;
    let description = LayerDescription {
        path: opening.path.to_owned(),
        format: Format::Parallels,
        sniffed: false,
        wrapper: None,
        virtual_size: header.size,
        file_size: opening.storage.size(),
        unit: Some(header.cluster.get()),
        compression: None,
        backing: None,
        details: Details::Parallels(ParallelsDetails {
            kind: header.kind.as_str(),
            in_use: header.in_use,
            images: 1,
            snapshot: None,
            bitmaps: extension.bitmaps,
        }),
    };
    let layer = Expanding::open(header, opening.storage.clone(), layer::Absent::Zero)?;
    Ok(OpenedLayer {
        layer: std::sync::Arc::new(layer),
        description,
        files: Vec::new(),
    })
}

/// An image in a folder with a descriptor may hold nothing but what differs from another one.
fn refuse_lone_snapshot(opening: &Opening<'_>) -> Result<()> {
    let Some(name) = opening.path.file_name() else {
        return Ok(());
    };
    let Ok(opened) = opening.opener.open(Path::new(DESCRIPTOR), opening.path) else {
        return Ok(());
    };
    let Ok(descriptor) = descriptor::Descriptor::read(&*opened.storage) else {
        return Ok(());
    };
    if descriptor.is_over_another(name) {
        return Err(
            Error::unsupported("holds only what differs from another image of its folder")
                .in_file(opening.path)
                .hint(format!("open {} instead", opened.path.display())),
        );
    }
    Ok(())
}

/// Whether `head`, the first bytes of a file, are those of an image or of a folder's descriptor.
pub(crate) fn is_parallels(head: &[u8]) -> bool {
    header::is_image(head) || descriptor::is_descriptor(head)
}
