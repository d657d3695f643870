//! Opening what a command names: an image, or a VM with all its disks, and the guest on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{AllowedFolders, Disk, Error, Kind, Opened, Opener, Result};
use rehost_image::{Format, Image, LayerDescription, OpenOptions, Secret};
use rehost_inspect::{Guest, Options, Volumes};

use crate::source::{self, Described, Vm};
use crate::verbs::in_place::settled;

/// How an image is to be opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageOptions<'a> {
    /// Its format; without it, its signature decides.
    pub format: Option<Format>,
    /// Folders below which files may be opened that it names, besides its own.
    pub allow_paths: &'a [PathBuf],
    /// The internal snapshot to take the disk from, by its name or id.
    pub snapshot: Option<&'a str>,
    /// What may open it, if it is encrypted; the first that fits does.
    pub secrets: &'a [Secret],
}

/// A VM, or a lone image, with its disks opened.
#[derive(Debug)]
pub struct OpenedVm {
    /// What the VM's own configuration says; `None` for a lone image.
    pub vm: Option<Vm>,
    /// Its disks in boot order.
    pub images: Vec<Image>,
}

impl OpenedVm {
    /// Opens a VMX or a libvirt domain and its disks, or an image as a VM of one disk; the images of
    /// `more` are further disks of it.
    ///
    /// # Errors
    /// As [`open_image`] and the readers of descriptions.
    pub fn open(path: &Path, more: &[PathBuf], options: &ImageOptions<'_>) -> Result<Self> {
        let described = source::description(path).filter(|_| options.format.is_none());
        let mut opened = if let Some(described) = described {
            let opener = gate(options.allow_paths)?;
            let vm = source::read(path, described, &opener)?;
            let images = vm
                .disks
                .iter()
                .map(|disk| {
                    let options = ImageOptions {
                        format: disk.format,
                        ..*options
                    };
                    open_through(&disk.path, &options, &opener)
                })
                .collect::<Result<_>>()?;
            Self {
                vm: Some(vm),
                images,
            }
        } else {
            Self {
                vm: None,
                images: vec![open_image(path, options)?],
            }
        };
        for path in more {
            opened.images.push(open_image(path, options)?);
        }
        Ok(opened)
    }

    /// The disks as the guest sees them.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.images.iter().map(Image::disk).collect()
    }
}

/// Opens an image and everything it names that the gate lets through.
///
/// # Errors
/// As [`Image::open_with`]; Usage for a machine's description, which would pass for a raw image, and for
/// a file that a killed run left half changed.
pub fn open_image(path: &Path, options: &ImageOptions<'_>) -> Result<Image> {
    let described = source::description(path).filter(|_| options.format.is_none());
    if let Some(described) = described.filter(|_| path.is_file()) {
        let what = match described {
            Described::Vmx => "is a VMX file, not a disk image",
            Described::Libvirt | Described::Disks => "is a machine's XML, not a disk image",
        };
        return Err(Error::usage(what)
            .in_file(path)
            .hint("name one of its disks (`rehost inspect` lists them)"));
    }
    open_through(path, options, &gate(options.allow_paths)?)
}

/// Opens an image with the first secret that fits, if it is encrypted.
fn open_through(path: &Path, options: &ImageOptions<'_>, opener: &dyn Opener) -> Result<Image> {
    settled(path)?;
    let open = |key| {
        let options = OpenOptions {
            format: options.format,
            snapshot: options.snapshot,
            key,
            ..OpenOptions::default()
        };
        Image::open_with(path, &options, opener)
    };
    let Some((last, others)) = options.secrets.split_last() else {
        return open(None);
    };
    for secret in others {
        match open(Some(secret)) {
            // A secret that does not fit is a usage error, as much else is: the last one tells.
            Err(error) if error.kind() == Kind::Usage => {}
            opened => return opened,
        }
    }
    open(Some(last))
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

/// Looks inside the guest on `disks`; encrypted volumes are opened with the first of `secrets` that
/// fits.
///
/// # Errors
/// As [`rehost_inspect::inspect`].
pub fn look(disks: &[Arc<dyn Disk>], secrets: &[Secret]) -> Result<Guest> {
    rehost_inspect::inspect_volumes(Volumes::find(disks, secrets)?, &Options::default())
}

/// Means the system whose root is on the volume `root`, whatever inspection chose: `DISK:PARTITION`
/// (both as `rehost inspect` counts them), a partition of the first disk, the name of a logical volume or
/// array, or the filesystem's UUID.
///
/// # Errors
/// Usage, with those that there are, when no system has its root there.
pub fn choose_root(guest: &mut Guest, root: &str) -> Result<()> {
    let uuid = root.strip_prefix("UUID=").unwrap_or(root);
    let place = match root.split_once(':') {
        Some((disk, volume)) => disk.parse().ok().zip(volume.parse().ok()),
        None => root.parse().ok().map(|volume: u32| (0_usize, volume)),
    };
    // `/dev/vg/lv` and `vg/lv` mean the same.
    let name = root.strip_prefix("/dev/").unwrap_or(root);
    let systems = &guest.inspection.systems;
    let found = systems.iter().position(|system| {
        let at = &system.root;
        let here = at.name.is_none() && place == Some((at.disk, at.volume));
        here || at.name.as_deref() == Some(name) || at.uuid.as_deref() == Some(uuid)
    });
    if found.is_none() {
        let known: Vec<String> = systems
            .iter()
            .map(|system| format!("{} on {}", system.os.pretty_name, system.root))
            .collect();
        return Err(
            Error::usage(format!("there is no operating system on {root}")).hint(
                if known.is_empty() {
                    "none was found at all".to_owned()
                } else {
                    format!("found: {}", known.join(", "))
                },
            ),
        );
    }
    guest.inspection.chosen = found;
    "it was asked for with --root".clone_into(&mut guest.inspection.choice);
    Ok(())
}
