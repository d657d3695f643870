//! The descriptor of a VMDK and the files that it names, opened.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Error, Opened, Result, Storage};

use super::descriptor::{Access, Descriptor, Extent, ExtentKind, MAX_DESCRIPTOR};
use super::header::{Header, MAGIC};
use super::sparse::SparseExtent;
use super::{cowd, length, se_sparse};
use crate::layer::Opening;

/// A descriptor and what it names.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) descriptor: Descriptor,
    /// Where its text is in the image's own file, and how long it may be.
    pub(super) text: Range<u64>,
    /// Whether that file is a sparse extent too.
    pub(super) embedded: bool,
    pub(super) members: Vec<Member>,
    /// Files opened besides the image's own, each once.
    pub(super) files: Vec<Opened>,
}

/// One extent with its file.
#[derive(Debug)]
pub(super) struct Member {
    /// The guest bytes that it holds.
    pub(super) range: Range<u64>,
    pub(super) body: Body,
}

/// What an extent is made of.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// Zeroes.
    Zero,
    /// `NOACCESS`, in this line of the descriptor.
    Forbidden(u64),
    /// Bytes as they are, from this one of the file.
    Flat(ExtentFile, u64),
    /// Grains, by this header.
    Sparse(ExtentFile, Header),
}

/// A file of an extent.
#[derive(Debug, Clone)]
pub(super) struct ExtentFile {
    pub(super) path: PathBuf,
    pub(super) storage: Arc<dyn Storage>,
}

/// Reads the descriptor of an image and opens everything that it names but the parent.
///
/// # Errors
/// Usage when the opener refuses a file; Io when one cannot be opened; Unsupported and Corrupt by
/// name, structure and offset.
pub(super) fn open(opening: &Opening<'_>) -> Result<Members> {
    let (descriptor, text, header) = read_descriptor(&*opening.storage)?;
    let embedded = header.map(|header| (own_extent(&descriptor, opening.path), header));
    let mut files = Files {
        opening,
        opened: BTreeMap::new(),
    };
    let size = descriptor.size()?;
    let mut members = Vec::new();
    let mut start = 0u64;
    // Ends because a descriptor has finitely many extents.
    for (index, extent) in descriptor.extents.iter().enumerate() {
        let end = start.saturating_add(extent.len).min(size);
        let own = match &embedded {
            Some((Some(own), header)) if *own == index => Some(*header),
            _ => None,
        };
        members.push(Member {
            range: start..end,
            body: files.body(extent, own)?,
        });
        start = end;
    }
    Ok(Members {
        embedded: embedded.is_some(),
        text,
        members,
        files: files.opened.into_values().collect(),
        descriptor,
    })
}

/// The descriptor of `storage`: its text, or what its sparse header points at (with that header);
/// and where the text is.
///
/// # Errors
/// As [`open`].
pub(super) fn read_descriptor(
    storage: &dyn Storage,
) -> Result<(Descriptor, Range<u64>, Option<Header>)> {
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
    let descriptor = Descriptor::parse(&text, offset)?;
    Ok((descriptor, offset..offset.saturating_add(len), header))
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

/// Opens extents, each file once.
struct Files<'a> {
    opening: &'a Opening<'a>,
    opened: BTreeMap<PathBuf, Opened>,
}

impl Files<'_> {
    /// What `extent` is made of; `own` is the header of the image's own file where that is it.
    fn body(&mut self, extent: &Extent, own: Option<Header>) -> Result<Body> {
        if extent.access == Access::None && extent.kind != ExtentKind::Zero {
            return Ok(Body::Forbidden(extent.line));
        }
        match &extent.kind {
            ExtentKind::Zero => Ok(Body::Zero),
            ExtentKind::Flat { file, offset } => Ok(Body::Flat(self.file(file)?, *offset)),
            ExtentKind::Sparse { file } => {
                let (file, header) = match own {
                    Some(header) => (
                        ExtentFile {
                            path: self.opening.path.to_owned(),
                            storage: Arc::clone(&self.opening.storage),
                        },
                        header,
                    ),
                    None => {
                        let file = self.file(file)?;
                        let header = SparseExtent::header(&*file.storage)
                            .map_err(|error| error.in_file(file.storage.name()))?;
                        (file, header)
                    }
                };
                if header.capacity < extent.len {
                    return Err(Error::corrupt("extent is smaller than its descriptor says")
                        .in_structure("sparse extent header")
                        .in_file(file.storage.name())
                        .at(12)
                        .mismatch(
                            format!("{} sectors", extent.len / super::SECTOR),
                            header.capacity / super::SECTOR,
                        ));
                }
                Ok(Body::Sparse(file, header))
            }
        }
    }

    fn file(&mut self, name: &Path) -> Result<ExtentFile> {
        if name.as_os_str().as_encoded_bytes().starts_with(b"vsan://") {
            return Err(Error::unsupported("extent is an object of vSAN, no file")
                .in_structure("extent")
                .hint("clone the disk to another datastore on its host, then try again"));
        }
        let opened = match self.opened.get(name) {
            Some(opened) => opened.clone(),
            None => {
                let opened = self.opening.opener.open(name, self.opening.path)?;
                self.opened.insert(name.to_owned(), opened.clone());
                opened
            }
        };
        Ok(ExtentFile {
            path: opened.path,
            storage: opened.storage,
        })
    }
}
