//! What is on a disk: encrypted volumes, partitions, filesystems.

use std::sync::Arc;

use rehost_block::{Disk, Memory, Overlay, StorageDisk};
use rehost_fs::{
    Btrfs, BtrfsMut, Ext4, Ext4Mut, Fat, FatMut, FileKind, FileSystem, FileSystemMut, Inode,
    Iso9660, Squashfs, Xfs, XfsMut,
};
use rehost_luks::{Limits, LuksDisk, Secret};

use crate::images::walk;
use crate::storages::NAME;

/// Files of a tree that are looked at.
const FILES: usize = 100;

fn disk(bytes: &[u8]) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(Memory::new(
        NAME,
        bytes.to_vec(),
    ))))
}

/// A LUKS volume, unlocked where that is cheap.
pub(crate) fn luks(bytes: &[u8]) {
    let storage = Memory::new(NAME, bytes.to_vec());
    let _ = rehost_luks::detect(&storage);
    let Ok(header) = rehost_luks::parse(&storage) else {
        return;
    };
    let limits = Limits {
        argon2_memory: 1 << 20,
        argon2_filled: 4 << 20,
        pbkdf2_iterations: 1000,
    };
    let secret = Secret::passphrase("rehost");
    if let Ok(key) = header.unlock(&storage, &secret, &limits) {
        let _ = header.sector_cipher(&key);
        if let Ok(plain) = LuksDisk::new(NAME, disk(bytes), &header, &key) {
            walk(&plain);
        }
    }
}

/// A partition table, and what is in the partitions.
pub(crate) fn partitions(bytes: &[u8]) {
    let disk = disk(bytes);
    let Ok(layout) = rehost_volume::scan(&disk) else {
        return;
    };
    for volume in &layout.volumes {
        if let Ok(volume) = layout.open(&disk, volume.number) {
            let _ = rehost_fs::detect(&volume);
            let mut sector = vec![0; usize::try_from(volume.size().min(512)).unwrap()];
            let _ = volume.read_at(&mut sector, 0);
        }
    }
}

/// An ext filesystem: its tree is read, then some files are made and removed over it.
pub(crate) fn ext4(bytes: &[u8]) {
    let disk = disk(bytes);
    let _ = rehost_fs::detect(&disk);
    if let Ok(fs) = Ext4::open(Arc::clone(&disk)) {
        let _ = fs.identity();
        tree(&fs);
    }
    if let Ok(fs) = Ext4Mut::open(Arc::new(Overlay::in_memory(disk))) {
        let _ = change(&fs);
        tree(&fs);
    }
}

/// A Btrfs filesystem: the same, from its default subvolume and from the top one.
pub(crate) fn btrfs(bytes: &[u8]) {
    let disk = disk(bytes);
    let _ = rehost_fs::detect(&disk);
    if let Ok(fs) = Btrfs::open(Arc::clone(&disk)) {
        let _ = fs.identity();
        let _ = fs.subvolumes();
        tree(&fs);
        if let Ok(top) = fs.subvolume(&rehost_fs::Subvol::Top) {
            tree(&top);
        }
    }
    if let Ok(fs) = BtrfsMut::open(Arc::new(Overlay::in_memory(disk))) {
        let _ = change(&fs);
        tree(&fs);
    }
}

/// An ISO 9660 filesystem: its tree is read.
pub(crate) fn iso9660(bytes: &[u8]) {
    if let Ok(fs) = Iso9660::open(disk(bytes)) {
        let _ = fs.identity();
        tree(&fs);
    }
}

/// A squashfs filesystem: its tree is read.
pub(crate) fn squashfs(bytes: &[u8]) {
    if let Ok(fs) = Squashfs::open(disk(bytes)) {
        let _ = fs.identity();
        tree(&fs);
    }
}

/// A FAT filesystem: its tree is read, then some files are made and removed over it.
pub(crate) fn fat(bytes: &[u8]) {
    let disk = disk(bytes);
    let _ = rehost_fs::detect(&disk);
    if let Ok(fs) = Fat::open(Arc::clone(&disk)) {
        let _ = fs.identity();
        tree(&fs);
    }
    if let Ok(fs) = FatMut::open(Arc::new(Overlay::in_memory(disk))) {
        let _ = change(&fs);
        tree(&fs);
    }
}

/// An XFS filesystem, as [`ext4`].
pub(crate) fn xfs(bytes: &[u8]) {
    let disk = disk(bytes);
    let _ = rehost_fs::detect(&disk);
    if let Ok(fs) = Xfs::open(Arc::clone(&disk)) {
        let _ = fs.identity();
        tree(&fs);
    }
    if let Ok(fs) = XfsMut::open(Arc::new(Overlay::in_memory(disk))) {
        let _ = change(&fs);
        tree(&fs);
    }
}

fn tree(fs: &dyn FileSystem) {
    let mut waiting = vec![fs.root()];
    let mut seen = 0;
    // Ends because the number of files is bounded: a hostile tree may be a ring.
    while let Some(inode) = waiting.pop() {
        seen += 1;
        if seen > FILES {
            return;
        }
        let _ = fs.xattrs(inode);
        let Ok(attributes) = fs.attributes(inode) else {
            continue;
        };
        match attributes.kind {
            FileKind::Directory => {
                let entries = fs.read_dir(inode).unwrap_or_default();
                for entry in entries.iter().take(FILES) {
                    let _ = fs.lookup(inode, &entry.name);
                    waiting.push(entry.inode);
                }
            }
            FileKind::Symlink => {
                let _ = fs.read_link(inode);
            }
            FileKind::Regular => {
                let _ = fs.stored(inode);
                let mut buf = [0; 4096];
                for at in [0, attributes.size / 2, attributes.size.saturating_sub(9)] {
                    let _ = fs.read_at(inode, &mut buf, at);
                }
            }
            _ => {}
        }
    }
}

fn change(fs: &dyn FileSystemMut) -> rehost_block::Result<()> {
    let root = fs.root();
    let made = |result: rehost_block::Result<Inode>| result.ok();
    let folder = made(fs.create_dir(root, b"folder", 0o755, (0, 0)));
    let file = made(fs.create(root, b"file", 0o600, (1, 1), &[7; 3000]));
    made(fs.create_link(folder.unwrap_or(root), b"link", &[b'x'; 90], (0, 0)));
    if let Some(file) = file {
        let _ = fs.set_xattr(file, b"user.a", &[1; 40]);
        let _ = fs.replace(file, &[9; 9000]);
        let _ = fs.overwrite(file, &[8; 9000]);
    }
    for entry in fs.read_dir(root)?.iter().take(8) {
        let _ = fs.remove(root, &entry.name);
    }
    Ok(())
}
