//! What is inside a guest: an initramfs, and the files that an inspection reads.

use std::process::Command;
use std::sync::{Arc, OnceLock};

use rehost_block::{Disk, DiskMut, Memory, Overlay, StorageDisk};
use rehost_fs::{Ext4Mut, FileSystem, FileSystemMut};
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::modules::{Dependencies, index};
use rehost_inspect::{Options, inspect};

use crate::storages::NAME;

/// Bytes that an initramfs may unpack to.
const MOST_UNPACKED: usize = 16 << 20;

/// Files of a guest at most, and bytes of each.
const MOST_FILES: usize = 24;
const MOST_BYTES: usize = 16 << 10;

/// An initramfs, and its modules.
pub(crate) fn initramfs(bytes: &[u8]) {
    let Ok(image) = Initramfs::parse_within(bytes.to_vec(), MOST_UNPACKED) else {
        return;
    };
    for (path, node) in image.files().take(100) {
        let _ = (image.content(node), image.resolve(path));
    }
    for version in image.versions().iter().take(4) {
        let _ = (image.modules(version), image.module_directory(version));
    }
}

/// A list of modules, as text and as depmod's index.
pub(crate) fn modules(bytes: &[u8]) {
    let _ = index::read(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = Dependencies::parse(&text).to_text();
    let _ = rehost_inspect::modules::parse_aliases(&text);
    let _ = rehost_inspect::modules::parse_soft_dependencies(&text);
}

/// A small empty filesystem; nothing where there is no tool to make one.
fn empty() -> Option<&'static [u8]> {
    static MADE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let make = || {
        let file = tempfile::NamedTempFile::new().ok()?;
        let path = std::env::var("PATH").unwrap_or_default();
        let done = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "128"])
            .args(["-O", "^has_journal,^resize_inode"])
            .arg(file.path())
            .arg("1024")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .output();
        if !done.is_ok_and(|done| done.status.success()) {
            println!("skipped: needs mke2fs");
            return None;
        }
        std::fs::read(file.path()).ok()
    };
    MADE.get_or_init(make).as_deref()
}

/// The files of a guest: lines `=== PATH`, each followed by the content, up to the next.
pub(crate) fn guest(bytes: &[u8]) {
    let Some(template) = empty() else {
        return;
    };
    let base: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(Memory::new(
        NAME,
        template.to_vec(),
    ))));
    let overlay: Arc<dyn DiskMut> = Arc::new(Overlay::in_memory(base));
    let fs = Ext4Mut::open(Arc::clone(&overlay)).unwrap();
    let mut name: &[u8] = b"";
    let mut content: Vec<u8> = Vec::new();
    let mut files = 0;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    for line in lines.chain(std::iter::once(&b"=== end\n"[..])) {
        let Some(next) = line.strip_prefix(b"=== ") else {
            if content.len() < MOST_BYTES {
                content.extend(line);
            }
            continue;
        };
        if !name.is_empty() && files < MOST_FILES {
            files += 1;
            let _ = make(&fs, name, &content);
        }
        name = next.trim_ascii_end();
        content.clear();
    }
    drop(fs);
    let disk: Arc<dyn Disk> = overlay;
    let found = inspect(&[disk], &Options::default()).unwrap();
    let _ = found.inspection.to_string();
}

/// Makes a file and the folders that it is in; a content that begins with `-> ` makes a link.
fn make(fs: &Ext4Mut, path: &[u8], content: &[u8]) -> rehost_block::Result<()> {
    let mut names: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b"." && *name != b"..")
        .collect();
    let Some(last) = names.pop() else {
        return Ok(());
    };
    let mut folder = fs.root();
    for name in names.into_iter().take(6) {
        folder = match fs.lookup(folder, name)? {
            Some(inode) => inode,
            None => fs.create_dir(folder, name, 0o755, (0, 0))?,
        };
    }
    match content.strip_prefix(b"-> ") {
        Some(target) => fs.create_link(folder, last, target.trim_ascii_end(), (0, 0))?,
        None => fs.create(folder, last, 0o644, (0, 0), &content)?,
    };
    Ok(())
}
