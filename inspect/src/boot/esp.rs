//! The EFI system partition: where the guest has it, the programs on it, and the one that firmware
//! starts when it remembers nothing.
//!
//! UEFI 2.10, 3.5.1.1 "Removable Media Boot Behavior" for the name of the fallback.

use rehost_fs::path::{self, LastLink};

use crate::model::EspFound;
use crate::reader::Reader;
use crate::tree::{GuestTree, OpenedFilesystem};

/// Where distributions mount it, the usual place first.
pub(crate) const FOLDERS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

/// Folders below `EFI` that are looked into. Ours: each vendor has one.
const MOST_FOLDERS: usize = 64;

/// Mounts the partition where fstab does not: systemd does so by its type
/// (systemd-gpt-auto-generator(8)). It is known by what is on it, so that one without a partition table
/// is found too; one on the disk of `/` comes first.
pub(crate) fn mount_unlisted(tree: &mut GuestTree, filesystems: &[OpenedFilesystem]) {
    let exists = |tree: &GuestTree, path: &str| tree.exists(path).unwrap_or_default();
    if FOLDERS
        .iter()
        .any(|folder| exists(tree, &format!("{folder}/EFI")))
    {
        return;
    }
    let holds_efi = |opened: &&OpenedFilesystem| {
        let found = path::find(opened.fs.as_ref(), b"/EFI", LastLink::Keep);
        opened.fs.identity().kind == "vfat" && found.is_ok_and(|inode| inode.is_some())
    };
    let home = tree.root().at.disk;
    let found = filesystems
        .iter()
        .filter(holds_efi)
        .min_by_key(|opened| opened.at.disk != home);
    let Some(opened) = found else {
        return;
    };
    let empty = |path: &str| tree.read_dir(path).is_ok_and(|names| names.is_empty());
    let point = ["/efi", "/boot/efi", "/boot"]
        .into_iter()
        .find(|point| exists(tree, point) && (*point != "/boot" || empty(point)));
    if let Some(point) = point {
        // Where it cannot be mounted, it is not: what is on it stays unknown, as without this.
        let _ = tree.mount(point, opened.clone());
    }
}

/// The partition, when one is mounted.
pub(super) fn find(reader: &Reader<'_>) -> Option<EspFound> {
    let path = FOLDERS
        .into_iter()
        .find(|folder| reader.exists(&format!("{folder}/EFI")))?;
    let efi = format!("{path}/EFI");
    let program = |name: &str| name.to_ascii_lowercase().ends_with(".efi");
    let loaders: Vec<String> = reader
        .names(&efi)
        .into_iter()
        .take(MOST_FOLDERS)
        .flat_map(|folder| {
            let names = reader.names(&format!("{efi}/{folder}"));
            let efi = &efi;
            names
                .into_iter()
                .filter(|name| program(name))
                .map(move |name| format!("{efi}/{folder}/{name}"))
                .collect::<Vec<_>>()
        })
        .collect();
    let below = |path: &str| path.strip_prefix(efi.as_str()).map(str::to_ascii_lowercase);
    let fallback = loaders
        .iter()
        .find(|path| below(path).as_deref() == Some("/boot/bootx64.efi"))
        .cloned();
    Some(EspFound {
        path: path.to_owned(),
        loaders,
        fallback,
    })
}
