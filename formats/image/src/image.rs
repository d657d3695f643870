//! `Image`: a disk image with everything it names (parents, extents, data files), opened read-only.
//!
//! Nothing is guessed silently: a format that was told apart by content says so in its
//! [`LayerDescription::sniffed`]. Every file but the first is opened through the caller's
//! [`Opener`].
//!
//! Left out on purpose: parents that are no local file (`nbd://`, `json:` names), refused by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Chain, Disk, Error, File, Opener, Result, Storage, StorageDisk};
use rehost_luks::Secret;

use crate::details::Details;
use crate::layer::{LayerDescription, OpenedLayer, Opening};
use crate::wrapper::{Unpacking, Wrapping, find, unwrap};
use crate::{Format, parallels, qcow, qcow2, qed, vdi, vhd, vhdx, vmdk};

/// Files in one chain. Ours: QEMU has no limit, VMware stops at 32, libvirt at 200.
const MAX_CHAIN: usize = 200;

/// How an image is to be opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions<'a> {
    /// The format; without one the content decides.
    pub format: Option<Format>,
    /// The internal snapshot whose disk is wanted, by name or id (an id goes first). Parents are
    /// opened as they are.
    pub snapshot: Option<&'a str>,
    /// What opens encrypted images: a passphrase, or what a key file holds. Parents are tried with
    /// the same.
    pub key: Option<&'a Secret>,
    /// What may be spent on wrapped files; what the environment says without it.
    pub unpacking: Option<Unpacking>,
}

/// A disk image with its parents.
#[derive(Debug)]
pub struct Image {
    disk: Arc<Chain>,
    layers: Vec<LayerDescription>,
    files: Vec<PathBuf>,
}

impl Image {
    /// Opens the image at `path`, read-only, and everything it names. Without a `format` its
    /// content decides ([`Image::sniffed`] tells).
    ///
    /// # Errors
    /// Usage when `opener` refuses a file; Io when one cannot be opened; Unsupported, by name, for
    /// what a format has and this program does not read; Corrupt for what contradicts its format.
    pub fn open(
        path: impl AsRef<Path>,
        format: Option<Format>,
        opener: &dyn Opener,
    ) -> Result<Self> {
        let options = OpenOptions {
            format,
            ..OpenOptions::default()
        };
        Self::open_with(path, &options, opener)
    }

    /// As [`Image::open`], with more to choose.
    ///
    /// # Errors
    /// As [`Image::open`]; Usage for a snapshot that the image does not have.
    pub fn open_with(
        path: impl AsRef<Path>,
        options: &OpenOptions<'_>,
        opener: &dyn Opener,
    ) -> Result<Self> {
        let path = path.as_ref();
        // A Parallels disk is a folder, which its descriptor stands for.
        let descriptor = path.join(parallels::DESCRIPTOR);
        let path = if path.is_dir() && descriptor.is_file() {
            descriptor.as_path()
        } else {
            path
        };
        let storage: Arc<dyn Storage> = Arc::new(File::open(path)?);
        let path = path
            .canonicalize()
            .map_err(|error| Error::io("cannot open", error).in_file(path))?;
        Self::from_storage_with(path, storage, options, opener)
    }

    /// As [`Image::open`], for an image whose bytes are at hand under the name `path`.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_storage(
        path: PathBuf,
        storage: Arc<dyn Storage>,
        format: Option<Format>,
        opener: &dyn Opener,
    ) -> Result<Self> {
        let options = OpenOptions {
            format,
            ..OpenOptions::default()
        };
        Self::from_storage_with(path, storage, &options, opener)
    }

    /// As [`Image::from_storage`], with more to choose.
    ///
    /// # Errors
    /// As [`Image::open_with`].
    pub fn from_storage_with(
        path: PathBuf,
        storage: Arc<dyn Storage>,
        options: &OpenOptions<'_>,
        opener: &dyn Opener,
    ) -> Result<Self> {
        let mut snapshot = options.snapshot;
        let mut chain = Vec::new();
        let mut layers: Vec<LayerDescription> = Vec::new();
        let mut files = Vec::new();
        let mut next = Some((path, storage, options.format));
        // Ends because no path may come twice and the length of a chain is limited.
        while let Some((path, storage, format)) = next.take() {
            let named = format;
            let file_size = storage.size();
            let (storage, wrapping) = peel(&path, storage, named, options.unpacking.as_ref())
                .map_err(|error| error.in_file(&path))?;
            let format = match named {
                Some(format) => format,
                None => Format::sniff(&*storage)?,
            };
            let mut opened = open_layer(
                format,
                &Opening {
                    path: &path,
                    storage,
                    opener,
                    snapshot: snapshot.take(),
                    key: options.key,
                },
            )
            .map_err(|error| error.in_file(&path))?;
            opened.description.sniffed = named.is_none();
            if wrapping.is_some() {
                opened.description.file_size = file_size;
            }
            opened.description.wrapper = wrapping;
            files.push(path.clone());
            files.append(&mut opened.files);
            if let Some(backing) = &opened.description.backing {
                if chain.len().saturating_add(1) >= MAX_CHAIN {
                    return Err(Error::unsupported("backing chain is too long")
                        .in_file(&path)
                        .mismatch(format!("at most {MAX_CHAIN} files"), "one more"));
                }
                let parent = opener.open(&backing.name, &path)?;
                if files.contains(&parent.path) {
                    return Err(Error::corrupt(format!(
                        "backing chain loops back to {}",
                        parent.path.display()
                    ))
                    .in_file(&path));
                }
                next = Some((parent.path, parent.storage, backing.format));
            }
            chain.push(opened.layer);
            layers.push(opened.description);
        }
        Ok(Self {
            disk: Arc::new(Chain::new(chain)?),
            layers,
            files,
        })
    }

    /// What the guest sees.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// The same, file by file: what each of them holds itself.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.disk
    }

    /// The format of the image itself.
    #[must_use]
    pub fn format(&self) -> Format {
        self.layers
            .first()
            .map_or(Format::Raw, |layer| layer.format)
    }

    /// Whether that format was told apart by content instead of given.
    #[must_use]
    pub fn sniffed(&self) -> bool {
        self.layers.first().is_some_and(|layer| layer.sniffed)
    }

    /// Guest-visible size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// The image itself first, each parent after its child.
    #[must_use]
    pub fn layers(&self) -> &[LayerDescription] {
        &self.layers
    }

    /// Every file that was opened, links followed.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// The image inside a wrapped file.
fn peel(
    path: &Path,
    storage: Arc<dyn Storage>,
    named: Option<Format>,
    unpacking: Option<&Unpacking>,
) -> Result<(Arc<dyn Storage>, Option<Wrapping>)> {
    let Some(wrapper) = find(path, &*storage, named)? else {
        return Ok((storage, None));
    };
    let environment = match unpacking {
        Some(_) => None,
        None => Some(Unpacking::from_environment()?),
    };
    let unpacking = unpacking
        .or(environment.as_ref())
        .ok_or_else(|| Error::internal("no limits for a wrapped file"))?;
    let (plain, wrapping) = unwrap(storage, wrapper, unpacking)?;
    Ok((plain, Some(wrapping)))
}

fn open_layer(format: Format, opening: &Opening<'_>) -> Result<OpenedLayer> {
    if opening.snapshot.is_some() && format != Format::Qcow2 {
        return Err(
            Error::usage(format!("{format} images have no internal snapshots"))
                .hint("leave the snapshot out"),
        );
    }
    match format {
        Format::Raw => Ok(open_raw(opening)),
        Format::Qcow2 => qcow2::open(opening),
        Format::Vmdk => vmdk::open(opening),
        Format::Vhd => vhd::open(opening),
        Format::Vdi => vdi::open(opening),
        Format::Vhdx => vhdx::open(opening),
        Format::Parallels => parallels::open(opening),
        Format::Qed => qed::open(opening),
        Format::Qcow => qcow::open(opening),
    }
}

fn open_raw(opening: &Opening<'_>) -> OpenedLayer {
    let size = opening.storage.size();
    OpenedLayer {
        layer: Arc::new(StorageDisk::new(Arc::clone(&opening.storage))),
        description: LayerDescription {
            path: opening.path.to_owned(),
            format: Format::Raw,
            sniffed: false,
            wrapper: None,
            virtual_size: size,
            file_size: size,
            unit: None,
            compression: None,
            backing: None,
            details: Details::Raw,
        },
        files: Vec::new(),
    }
}
