//! Editing a guest: the plan, and its application to copy-on-write overlays.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Error, Overlay, Result};
use rehost_fs::path::{LastLink, find};
use rehost_fs::{Ext4Mut, FileKind, FileSystem, FileSystemMut};
use rehost_inject::apply::{Ledger, WritableDisk, apply};
use rehost_inject::plan::{EditPlan, NetworkCard, PlanOptions, plan as plan_edits};
use rehost_inject::target::Target;
use rehost_inspect::Guest;

use crate::source::vmx::Vm;

/// Overlays over a guest's disks, with the edits in them.
#[derive(Debug)]
pub struct Edited {
    /// One a disk, in the same order.
    pub overlays: Vec<Arc<Overlay>>,
    /// What was changed.
    pub ledger: Ledger,
}

impl Edited {
    /// The edited disks as the guest will see them.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.overlays
            .iter()
            .map(|overlay| Arc::clone(overlay) as Arc<dyn Disk>)
            .collect()
    }
}

/// Applies `plan` to overlays over `disks`, which stay as they are.
///
/// # Errors
/// As [`rehost_inject::apply::apply`].
pub fn edit(plan: &EditPlan, guest: &Guest, disks: &[Arc<dyn Disk>]) -> Result<Edited> {
    let overlays: Vec<Arc<Overlay>> = disks
        .iter()
        .map(|disk| Arc::new(Overlay::in_memory(Arc::clone(disk))))
        .collect();
    let writable: Vec<WritableDisk> = overlays
        .iter()
        .zip(&guest.inspection.disks)
        .map(|(overlay, found)| WritableDisk {
            disk: Arc::clone(overlay) as Arc<dyn DiskMut>,
            layout: found.layout.clone(),
        })
        .collect();
    let ledger = apply(plan, &writable)?;
    Ok(Edited { overlays, ledger })
}

/// What is to be changed so that the chosen system boots on `target`.
///
/// # Errors
/// As [`rehost_inject::plan::plan`].
pub fn plan(guest: &Guest, target: &Target, options: &PlanOptions) -> Result<EditPlan> {
    plan_edits(&guest.inspection, guest.tree()?, target, options)
}

/// The network cards of a VMware machine, with the names its slots gave them in the guest: udev
/// names a card in hot-plug slot N `ensN` (systemd.net-naming-scheme(7)).
#[must_use]
pub fn cards(vm: &Vm) -> Vec<NetworkCard> {
    vm.nics
        .iter()
        .filter_map(|nic| {
            let mac = nic.mac.clone()?;
            Some(NetworkCard {
                mac,
                old_name: nic.pci_slot.map(|slot| format!("ens{slot}")),
            })
        })
        .collect()
}

/// Puts `content` at `path` of the guest on `overlays`, or of partition `volume` of the first.
/// An existing file keeps its owner, mode and labels; a new one belongs to root, mode 0644.
///
/// # Errors
/// Usage when the folder does not exist or the path is no regular file; as the filesystem.
pub fn put_file(
    guest: &Guest,
    overlays: &[Arc<Overlay>],
    volume: Option<u32>,
    path: &Path,
    content: &[u8],
) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let (disk, volume, inner) = match volume {
        Some(volume) => (0, volume, bytes.to_vec()),
        None => place(guest, bytes)?,
    };
    let overlay = overlays
        .get(disk)
        .ok_or_else(|| Error::internal("no such disk"))?;
    let layout = rehost_volume::scan(&(Arc::clone(overlay) as Arc<dyn Disk>))?;
    let part = layout.open_mut(&(Arc::clone(overlay) as Arc<dyn DiskMut>), volume)?;
    // Ext4Mut names what it cannot write.
    let fs = Ext4Mut::open(part)?;
    put(&fs, &inner, content).map_err(|error| error.in_file(path))
}

/// The disk, the volume and the path on it of a guest path whose folder exists.
fn place(guest: &Guest, path: &[u8]) -> Result<(usize, u32, Vec<u8>)> {
    let tree = guest
        .tree()
        .map_err(|error| error.hint("choose a filesystem with --volume NUMBER"))?;
    if let Some(found) = tree.locate(path)? {
        return Ok((found.disk, found.volume, found.path));
    }
    let path = Path::new(OsStr::from_bytes(path));
    let name = path
        .file_name()
        .ok_or_else(|| Error::usage("is no name of a file"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder = tree
        .locate(folder.as_os_str().as_bytes())?
        .ok_or_else(|| Error::usage("its folder does not exist in the guest").in_file(path))?;
    let mut inner = folder.path;
    inner.push(b'/');
    inner.extend(name.as_bytes());
    Ok((folder.disk, folder.volume, inner))
}

fn put(fs: &dyn FileSystemMut, path: &[u8], content: &[u8]) -> Result<()> {
    let reader: &dyn FileSystem = fs;
    if let Some(inode) = find(reader, path, LastLink::Follow)? {
        if reader.attributes(inode)?.kind == FileKind::Directory {
            return Err(
                Error::usage("is a directory in the guest").hint("name the file to write in it")
            );
        }
        return fs.replace(inode, content);
    }
    let path = Path::new(OsStr::from_bytes(path));
    let name = path
        .file_name()
        .ok_or_else(|| Error::usage("is no name of a file"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let dir = find(reader, folder.as_os_str().as_bytes(), LastLink::Follow)?
        .ok_or_else(|| Error::usage("its folder does not exist in the guest"))?;
    fs.create(dir, name.as_bytes(), 0o644, (0, 0), content)
        .map(drop)
}
