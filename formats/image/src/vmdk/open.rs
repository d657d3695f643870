//! Opening a VMDK: descriptor, extents, and the check that the parent is the right one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Kind, Opened, Result, Storage};

use super::descriptor::{Access, Descriptor, Extent, ExtentKind, MAX_DESCRIPTOR, Parent};
use super::header::{Grains, Header, MAGIC};
use super::layer::{Body, Joined, Part};
use super::sparse::{Absent, SparseExtent};
use super::{cowd, length, se_sparse};
use crate::Format;
use crate::details::{Details, VmdkDetails};
use crate::layer::{Backing, LayerDescription, OpenedLayer, Opening};

/// Grain directory entries of all extents together, for bounded memory (32 MiB). Ours.
const MAX_DIRECTORY_ENTRIES: u64 = 8 << 20;

/// Opens one image of a chain.
///
/// # Errors
/// Usage when the opener refuses a file; Io when one cannot be opened; Unsupported and Corrupt by
/// name, structure and offset.
pub(crate) fn open(opening: &Opening<'_>) -> Result<OpenedLayer> {
    let (descriptor, embedded) = read_descriptor(&*opening.storage)?;
    let backing = match &descriptor.parent {
        None => None,
        Some(parent) => Some(check_parent(opening, parent)?),
    };
    let mut extents = Extents {
        opening,
        embedded: embedded.map(|header| (own_extent(&descriptor, opening.path), header)),
        absent: match backing {
            Some(_) => Absent::Below,
            None => Absent::Zero,
        },
        opened: BTreeMap::new(),
        directory_entries: 0,
        grain: None,
        compressed: false,
    };
    let mut parts = Vec::new();
    let mut start = 0u64;
    let size = descriptor.size()?;
    // Ends because a descriptor has finitely many extents.
    for (index, extent) in descriptor.extents.iter().enumerate() {
        let end = start.saturating_add(extent.len).min(size);
        parts.push(Part {
            range: start..end,
            body: extents.body(index, extent)?,
        });
        start = end;
    }
    let files: Vec<PathBuf> = extents.opened.values().map(|o| o.path.clone()).collect();
    let file_size = extents
        .opened
        .values()
        .map(|opened| opened.storage.size())
        .fold(opening.storage.size(), u64::saturating_add);
    Ok(OpenedLayer {
        description: LayerDescription {
            path: opening.path.to_owned(),
            format: Format::Vmdk,
            sniffed: false,
            wrapper: None,
            virtual_size: size,
            file_size,
            unit: extents.grain,
            compression: extents.compressed.then_some("zlib"),
            backing,
            details: Details::Vmdk(VmdkDetails {
                create_type: descriptor.create_type,
                cid: descriptor.cid,
                adapter: descriptor.adapter,
                extents: descriptor.extents.len(),
            }),
        },
        layer: Arc::new(Joined::new(parts)),
        files,
    })
}

/// The descriptor of `storage`: its text, or what its sparse header points at (with that header).
fn read_descriptor(storage: &dyn Storage) -> Result<(Descriptor, Option<Header>)> {
    let size = storage.size();
    let mut magic = [0; 8];
    let len = usize::try_from(size).unwrap_or(8).min(8);
    let head = magic.get_mut(..len).unwrap_or_default();
    storage.read_at(head, 0)?;
    if head.starts_with(cowd::MAGIC) || head.starts_with(&se_sparse::MAGIC.to_le_bytes()) {
        return Err(only_an_extent());
    }
    let (offset, len, header) = if head.starts_with(MAGIC) {
        let header = SparseExtent::header(storage)?;
        let (offset, len) = header.descriptor.ok_or_else(only_an_extent)?;
        (offset, len, Some(header))
    } else {
        (0, size, None)
    };
    if len > MAX_DESCRIPTOR {
        return Err(Error::corrupt("descriptor is too long")
            .in_structure("descriptor")
            .at(offset)
            .mismatch(format!("at most {MAX_DESCRIPTOR} bytes"), len));
    }
    let mut text = vec![0; length(len)?];
    storage.read_at(&mut text, offset)?;
    // QEMU keeps room for a descriptor in the extents of split disks too, and leaves it empty.
    if header.is_some() && text.first().is_none_or(|byte| *byte == 0) {
        return Err(only_an_extent());
    }
    Ok((Descriptor::parse(&text, offset)?, header))
}

fn only_an_extent() -> Error {
    Error::usage("is one extent of a disk and has no descriptor")
        .hint("open the small .vmdk text file that names this one")
}

/// Which extent line of an embedded descriptor is the file that it is embedded in: the one with the
/// file's name, otherwise the first sparse one (the file was renamed, as files in an OVA often are).
fn own_extent(descriptor: &Descriptor, path: &Path) -> Option<usize> {
    let sparse = |extent: &Extent| matches!(extent.kind, ExtentKind::Sparse { .. });
    let named = |extent: &Extent| match &extent.kind {
        ExtentKind::Sparse { file } => file.file_name() == path.file_name(),
        _ => false,
    };
    let position = |found: &dyn Fn(&Extent) -> bool| descriptor.extents.iter().position(found);
    position(&named).or_else(|| position(&sparse))
}

/// Finds the parent and compares its `CID` with what the child remembers.
fn check_parent(opening: &Opening<'_>, parent: &Parent) -> Result<Backing> {
    let (name, opened) = find_parent(opening, &parent.hint)?;
    let (descriptor, _) =
        read_descriptor(&*opened.storage).map_err(|error| error.in_file(&opened.path))?;
    if descriptor.cid != parent.cid {
        return Err(Error::corrupt(format!(
            "parent {} was changed after this disk was made from it",
            opened.path.display()
        ))
        .in_structure("descriptor")
        .mismatch(
            format!("CID {:08x}", parent.cid),
            format!("{:08x}", descriptor.cid),
        )
        .hint("restore the parent as it was: with another one the data would be wrong"));
    }
    Ok(Backing {
        name,
        format: Some(Format::Vmdk),
    })
}

/// Opens the parent by its hint; where that is a path of the machine that made it, by its file name
/// beside the child. The `CID` tells whether it is the right file.
fn find_parent(opening: &Opening<'_>, hint: &Path) -> Result<(PathBuf, Opened)> {
    let missing = match opening.opener.open(hint, opening.path) {
        Ok(opened) => return Ok((hint.to_owned(), opened)),
        Err(error) => error,
    };
    let text = hint.as_os_str().to_string_lossy();
    let name = text.rsplit(['/', '\\']).next().unwrap_or_default();
    if missing.kind() != Kind::Io || name.is_empty() || *name == *text {
        return Err(missing);
    }
    match opening.opener.open(Path::new(name), opening.path) {
        Ok(opened) => Ok((PathBuf::from(name), opened)),
        Err(_) => Err(missing),
    }
}

/// Opens extents, each file once.
struct Extents<'a> {
    opening: &'a Opening<'a>,
    /// The extent that is the file itself, and its header.
    embedded: Option<(Option<usize>, Header)>,
    absent: Absent,
    opened: BTreeMap<PathBuf, Opened>,
    directory_entries: u64,
    grain: Option<u64>,
    compressed: bool,
}

impl Extents<'_> {
    fn body(&mut self, index: usize, extent: &Extent) -> Result<Body> {
        if extent.access == Access::None && extent.kind != ExtentKind::Zero {
            return Ok(Body::Forbidden(extent.line));
        }
        match &extent.kind {
            ExtentKind::Zero => Ok(Body::Zero),
            ExtentKind::Flat { file, offset } => {
                let storage = self.file(file)?;
                check_flat(&*storage, *offset, extent.len)?;
                Ok(Body::Flat(storage, *offset))
            }
            ExtentKind::Sparse { file } => {
                let (storage, header) = match self.embedded {
                    Some((Some(own), header)) if own == index => {
                        (Arc::clone(&self.opening.storage), header)
                    }
                    _ => {
                        let storage = self.file(file)?;
                        let header = SparseExtent::header(&*storage)
                            .map_err(|error| error.in_file(storage.name()))?;
                        (storage, header)
                    }
                };
                self.sparse(storage, header, extent).map(Body::Sparse)
            }
        }
    }

    fn sparse(
        &mut self,
        storage: Arc<dyn Storage>,
        header: Header,
        extent: &Extent,
    ) -> Result<SparseExtent> {
        self.directory_entries = self.directory_entries.saturating_add(header.gd_entries);
        if self.directory_entries > MAX_DIRECTORY_ENTRIES {
            return Err(
                Error::corrupt("extents have too many grain directory entries")
                    .in_file(storage.name())
                    .mismatch(format!("at most {MAX_DIRECTORY_ENTRIES}"), "more"),
            );
        }
        if header.capacity < extent.len {
            return Err(Error::corrupt("extent is smaller than its descriptor says")
                .in_structure("sparse extent header")
                .in_file(storage.name())
                .at(12)
                .mismatch(
                    format!("{} sectors", extent.len / super::SECTOR),
                    header.capacity / super::SECTOR,
                ));
        }
        self.grain.get_or_insert(header.grain.get());
        self.compressed |= header.grains == Grains::Compressed;
        SparseExtent::open(storage, header, self.absent)
    }

    fn file(&mut self, name: &Path) -> Result<Arc<dyn Storage>> {
        if let Some(opened) = self.opened.get(name) {
            return Ok(Arc::clone(&opened.storage));
        }
        if name.as_os_str().as_encoded_bytes().starts_with(b"vsan://") {
            return Err(Error::unsupported("extent is an object of vSAN, no file")
                .in_structure("extent")
                .hint("clone the disk to another datastore on its host, then try again"));
        }
        let opened = self.opening.opener.open(name, self.opening.path)?;
        let storage = Arc::clone(&opened.storage);
        self.opened.insert(name.to_owned(), opened);
        Ok(storage)
    }
}

fn check_flat(storage: &dyn Storage, offset: u64, len: u64) -> Result<()> {
    let size = storage.size();
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(
            Error::corrupt("flat extent is shorter than its descriptor says")
                .in_file(storage.name())
                .at(size)
                .mismatch(format!("{} bytes", offset.saturating_add(len)), size)
                .hint("the file is truncated: copy it again from its origin"),
        ),
    }
}
