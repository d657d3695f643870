//! Opening what a command names: an image, or a VM with all its disks, and the guest on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{AllowedFolders, Disk, Error, Opened, Opener, Result};
use rehost_image::{Format, Image, LayerDescription, OpenOptions, Secret};
use rehost_inspect::{Guest, Options};

use crate::source::vmx::{self, Vm};
use crate::verbs::in_place::settled;

/// A VM, or a lone image, with its disks opened.
#[derive(Debug)]
pub struct OpenedVm {
    /// What the VM's own configuration says; `None` for a lone image.
    pub vm: Option<Vm>,
    /// Its disks in boot order.
    pub images: Vec<Image>,
}

impl OpenedVm {
    /// Opens a VMX and its disks, or an image as a VM of one disk.
    ///
    /// # Errors
    /// As [`Image::open`] and the VMX parser.
    pub fn open(path: &Path, format: Option<Format>, allow_paths: &[PathBuf]) -> Result<Self> {
        if format.is_none() && is_vmx(path) {
            let opener = gate(allow_paths)?;
            let vm = vmx::read(path, &opener)?;
            let images = vm
                .disks
                .iter()
                .map(|disk| {
                    settled(&disk.path)?;
                    Image::open(&disk.path, None, &opener)
                })
                .collect::<Result<_>>()?;
            return Ok(Self {
                vm: Some(vm),
                images,
            });
        }
        Ok(Self {
            vm: None,
            images: vec![open_image(path, format, allow_paths)?],
        })
    }

    /// The disks as the guest sees them.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.images.iter().map(Image::disk).collect()
    }
}

/// Whether a file is a VMX by its name. Its content is lines of text like any other's.
#[must_use]
pub fn is_vmx(path: &Path) -> bool {
    path.extension()
        .is_some_and(|suffix| suffix.eq_ignore_ascii_case("vmx"))
}

/// Opens an image and everything it names that the gate lets through.
///
/// # Errors
/// As [`Image::open`]; Usage for a VMX, which would pass for a raw image, and for a file that a killed
/// run left half changed.
pub fn open_image(path: &Path, format: Option<Format>, allow_paths: &[PathBuf]) -> Result<Image> {
    open_image_at(path, format, allow_paths, None, None)
}

/// As [`open_image`], with the disk as it was at an internal snapshot, named by its name or id, and
/// what opens an encrypted one in `key_file`.
///
/// # Errors
/// As [`open_image`]; Usage for a snapshot that the image does not have.
pub fn open_image_at(
    path: &Path,
    format: Option<Format>,
    allow_paths: &[PathBuf],
    snapshot: Option<&str>,
    key_file: Option<&Path>,
) -> Result<Image> {
    if format.is_none() && is_vmx(path) && path.is_file() {
        return Err(Error::usage("is a VMX file, not a disk image")
            .in_file(path)
            .hint("name one of its disks (`rehost inspect` lists them)"));
    }
    settled(path)?;
    let key = key_file
        .map(|path| Secret::key_file(path, 0, None))
        .transpose()?;
    let options = OpenOptions {
        format,
        snapshot,
        key: key.as_ref(),
        ..OpenOptions::default()
    };
    Image::open_with(path, &options, &gate(allow_paths)?)
}

/// The gate for files that an image names.
///
/// # Errors
/// Io when one of the folders does not exist.
pub fn opener(allow_paths: &[PathBuf]) -> Result<AllowedFolders> {
    AllowedFolders::new(allow_paths.iter().cloned())
}

/// The same, also closed for files that are half changed.
fn gate(allow_paths: &[PathBuf]) -> Result<Settled> {
    opener(allow_paths).map(Settled)
}

/// Lets through what [`AllowedFolders`] does, but no file with a journal beside it.
#[derive(Debug)]
struct Settled(AllowedFolders);

impl Opener for Settled {
    fn open(&self, named: &Path, from: &Path) -> Result<Opened> {
        let opened = self.0.open(named, from)?;
        settled(&opened.path)?;
        Ok(opened)
    }

    fn folders(&self) -> &[PathBuf] {
        self.0.folders()
    }
}

/// How the format of `layer` is known, when nobody named it.
#[must_use]
pub fn evidence(layer: &LayerDescription) -> Option<&'static str> {
    match (layer.sniffed, layer.format) {
        (false, _) => None,
        (true, Format::Raw) => Some("it has no known signature"),
        (true, _) => Some("told by its signature"),
    }
}

/// Looks inside the guest on `disks`.
///
/// # Errors
/// As [`rehost_inspect::inspect`].
pub fn look(disks: &[Arc<dyn Disk>]) -> Result<Guest> {
    rehost_inspect::inspect(disks, &Options::default())
}
