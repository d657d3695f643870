//! A disk folder, by its descriptor: opening all of its images and seeing them as one layer.

use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, Run, StorageDisk};
use uuid::Uuid;

use super::SECTOR;
use super::descriptor::{Descriptor, Image, Stretch, Type, fault};
use super::header::Header;
use super::layer::{Absent, Expanding};
use crate::Format;
use crate::details::{Details, ParallelsDetails};
use crate::layer::{LayerDescription, OpenedLayer, Opening};

/// The file in a disk folder that describes it.
pub(crate) const DESCRIPTOR: &str = "DiskDescriptor.xml";

/// Images in one folder. Ours: as many as files in a chain of other formats.
const MAX_IMAGES: usize = 200;

/// A part of the disk: its images, the topmost first.
#[derive(Debug)]
struct Part {
    start: u64,
    end: u64,
    images: Vec<Arc<dyn Layer>>,
}

/// An opened folder.
#[derive(Debug)]
struct Bundle {
    size: u64,
    parts: Vec<Part>,
}

/// What opening the images gives besides them.
#[derive(Default)]
struct Opened {
    files: Vec<std::path::PathBuf>,
    bytes: u64,
    in_use: bool,
}

/// Opens the folder whose descriptor `opening` has.
///
/// # Errors
/// As [`Descriptor::read`]; what opening its images gives; Corrupt when the descriptor contradicts
/// itself or them.
pub(super) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let descriptor = Descriptor::read(&*opening.storage)?;
    let lineage = descriptor.lineage()?;
    let mut opened = Opened {
        bytes: opening.storage.size(),
        ..Opened::default()
    };
    let mut parts = Vec::new();
    let mut end = 0;
    for stretch in &descriptor.stretches {
        if stretch.start != end || stretch.end <= stretch.start {
            return Err(fault("storages do not follow each other")
                .mismatch(format!("one from sector {end}"), stretch.start));
        }
        end = stretch.end;
        parts.push(part(opening, stretch, &lineage, &mut opened)?);
    }
    if end != descriptor.sectors || parts.is_empty() {
        return Err(fault("storages do not cover the disk")
            .mismatch(format!("{} sectors", descriptor.sectors), end));
    }
    let size = end
        .checked_mul(SECTOR)
        .ok_or_else(|| fault("disk size is out of range"))?;
    let unit = descriptor
        .stretches
        .first()
        .map(|stretch| stretch.cluster.saturating_mul(SECTOR))
        .filter(|unit| *unit > 0);
    Ok(OpenedLayer {
        description: LayerDescription {
            path: opening.path.to_owned(),
            format: Format::Parallels,
            sniffed: false,
            wrapper: None,
            virtual_size: size,
            file_size: opened.bytes,
            unit,
            compression: None,
            backing: None,
            details: Details::Parallels(ParallelsDetails {
                kind: DESCRIPTOR,
                in_use: opened.in_use,
                images: opened.files.len(),
                snapshot: lineage.first().copied(),
                bitmaps: Vec::new(),
            }),
        },
        layer: Arc::new(Bundle { size, parts }),
        files: opened.files,
    })
}

fn part(
    opening: &Opening<'_>,
    stretch: &Stretch,
    lineage: &[Uuid],
    opened: &mut Opened,
) -> Result<Part> {
    let mut images: Vec<Arc<dyn Layer>> = Vec::new();
    let len = stretch.end.saturating_sub(stretch.start);
    let size = len
        .checked_mul(SECTOR)
        .ok_or_else(|| fault("storage is out of range"))?;
    for (nth, guid) in lineage.iter().enumerate() {
        let is_root = nth.saturating_add(1) == lineage.len();
        let image = stretch
            .images
            .iter()
            .find(|image| image.guid == *guid)
            .ok_or_else(|| {
                fault(format!(
                    "storage from sector {} has no image of snapshot {guid}",
                    stretch.start
                ))
            })?;
        if opened.files.len() >= MAX_IMAGES {
            return Err(Error::unsupported("has too many images")
                .in_structure(super::descriptor::STRUCTURE)
                .mismatch(format!("at most {MAX_IMAGES}"), "one more"));
        }
        let absent = if is_root { Absent::Zero } else { Absent::Below };
        let layer = layer(opening, image, absent, stretch, opened)?;
        if layer.size() < size {
            return Err(fault(format!(
                "image {} is shorter than its storage",
                image.file.display()
            ))
            .mismatch(format!("{size} bytes"), layer.size()));
        }
        images.push(layer);
    }
    Ok(Part {
        start: stretch.start.saturating_mul(SECTOR),
        end: stretch.end.saturating_mul(SECTOR),
        images,
    })
}

fn layer(
    opening: &Opening<'_>,
    image: &Image,
    absent: Absent,
    stretch: &Stretch,
    opened: &mut Opened,
) -> Result<Arc<dyn Layer>> {
    let file = opening.opener.open(&image.file, opening.path)?;
    if file.path == opening.path || opened.files.contains(&file.path) {
        return Err(fault(format!("names {} twice", file.path.display())));
    }
    opened.bytes = opened.bytes.saturating_add(file.storage.size());
    opened.files.push(file.path.clone());
    match (image.kind, absent) {
        (Type::Plain, Absent::Zero) => Ok(Arc::new(StorageDisk::new(file.storage))),
        (Type::Plain, Absent::Below) => Err(fault(format!(
            "image {} is plain and lies over another",
            image.file.display()
        ))),
        (Type::Expanding, absent) => {
            let in_file = |error: Error| error.in_file(&file.path);
            let header = Header::read(&*file.storage).map_err(in_file)?;
            let cluster = stretch.cluster.saturating_mul(SECTOR);
            if header.cluster.get() != cluster {
                return Err(fault(format!(
                    "image {} has another cluster size",
                    image.file.display()
                ))
                .mismatch(format!("{cluster} bytes"), header.cluster));
            }
            opened.in_use |= header.in_use;
            Ok(Arc::new(Expanding::open(header, file.storage, absent)?))
        }
    }
}

impl Layer for Bundle {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let Some(part) = self
            .parts
            .iter()
            .find(|part| (part.start..part.end).contains(&offset))
        else {
            return Ok(Located::new(Run::End, 0));
        };
        let mut want = want.min(part.end.saturating_sub(offset));
        let within = offset.saturating_sub(part.start);
        for image in &part.images {
            let located = image.locate(within, want)?;
            match located.run {
                Run::Below => want = want.min(located.len),
                run => return Ok(Located::new(run, located.len.min(want))),
            }
        }
        Err(Error::internal("the root image of a disk answered below").at(offset))
    }
}
