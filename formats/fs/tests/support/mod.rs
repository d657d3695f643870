//! What the tests of this crate share: foreign tools, images made by them, and trees.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rehost_block::{Disk, File, Memory, StorageDisk};
use rehost_fs::{FileKind, FileSystem, Inode};
use sha2::{Digest, Sha256};

/// Whether every one of `tools` can be run; says which one is missing.
pub fn has(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain([PathBuf::from("/sbin"), PathBuf::from("/usr/sbin")])
            .any(|folder| folder.join(tool).is_file());
        if !found {
            println!("skipped: needs {tool}");
        }
        found
    })
}

/// Runs a command that must succeed.
pub fn run(program: &str, args: &[&str]) -> Output {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

/// `e2fsck -fn` finds nothing.
pub fn assert_clean(path: &Path, when: &str) {
    let out = Command::new("e2fsck")
        .arg("-fn")
        .arg(path)
        .output()
        .unwrap();
    assert!(
        out.status.code() == Some(0),
        "e2fsck {when}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A filesystem image made by mke2fs with `args`, filled from `from` where given.
pub fn mke2fs(path: &Path, size: &str, args: &[&str], from: Option<&Path>) {
    let mut all = vec!["-q", "-F"];
    all.extend(args);
    if let Some(from) = from {
        all.extend(["-d", from.to_str().unwrap()]);
    }
    all.extend([path.to_str().unwrap(), size]);
    run("mke2fs", &all);
}

/// An XFS image of 300 MiB (sparse) made by mkfs.xfs with `args`, filled by the prototype `proto`.
pub fn mkfs_xfs(path: &Path, args: &[&str], proto: Option<&Path>) {
    let _ = std::fs::remove_file(path);
    std::fs::File::create(path)
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    let mut all = vec!["-q", "-f", "-L", "rehost"];
    all.extend(args);
    if let Some(proto) = proto {
        all.extend(["-p", proto.to_str().unwrap()]);
    }
    all.push(path.to_str().unwrap());
    run("mkfs.xfs", &all);
}

/// One request to debugfs; its output.
pub fn debugfs(path: &Path, request: &str) -> String {
    let out = run("debugfs", &["-R", request, path.to_str().unwrap()]);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Many requests to debugfs, which may write.
pub fn debugfs_script(path: &Path, requests: &str) {
    let script = path.with_extension("debugfs");
    std::fs::write(&script, requests).unwrap();
    run(
        "debugfs",
        &["-w", "-f", script.to_str().unwrap(), path.to_str().unwrap()],
    );
}

pub fn file_disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(File::open(path).unwrap())))
}

pub fn memory_disk(bytes: Vec<u8>) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(Memory::new("disk", bytes))))
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a tree says of one name: type letter, permissions, and the content or target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: char,
    pub mode: u16,
    pub size: Option<u64>,
    pub content: String,
}

pub type Tree = BTreeMap<Vec<u8>, Seen>;

pub fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => 'f',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    }
}

/// The whole tree of a filesystem as we read it; the first error wins.
pub fn tree(fs: &dyn FileSystem) -> rehost_block::Result<Tree> {
    let mut found = Tree::new();
    walk(fs, fs.root(), b"", 0, &mut found)?;
    Ok(found)
}

fn walk(
    fs: &dyn FileSystem,
    dir: Inode,
    path: &[u8],
    depth: usize,
    found: &mut Tree,
) -> rehost_block::Result<()> {
    // Directories of a damaged image can contain themselves.
    if depth > 60 || found.len() > 400_000 {
        return Ok(());
    }
    for entry in fs.read_dir(dir)? {
        let mut name = path.to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(&entry.name);
        let about = fs.attributes(entry.inode)?;
        fs.xattrs(entry.inode)?;
        let mut seen = Seen {
            kind: letter(about.kind),
            mode: about.mode,
            size: None,
            content: String::new(),
        };
        match about.kind {
            FileKind::Regular => {
                seen.size = Some(about.size);
                seen.content = content_hash(fs, entry.inode, about.size)?;
            }
            FileKind::Symlink => {
                seen.content = String::from_utf8_lossy(&fs.read_link(entry.inode)?).into_owned();
            }
            _ => {}
        }
        found.insert(name.clone(), seen);
        if about.kind == FileKind::Directory {
            match walk(fs, entry.inode, &name, depth + 1, found) {
                // An encrypted directory is refused by name, and everything else goes on.
                Err(error) if error.to_string().contains("fscrypt") => {}
                other => other?,
            }
        }
    }
    Ok(())
}

pub fn content_hash(fs: &dyn FileSystem, inode: Inode, size: u64) -> rehost_block::Result<String> {
    let mut hash = Sha256::new();
    // A damaged inode can claim a size that nobody wants to read in a test.
    let size = size.min(1 << 30);
    let mut buf = vec![0; 1 << 16];
    let mut at = 0;
    while at < size {
        let len = fs.read_at(inode, &mut buf, at)?;
        if len == 0 {
            break;
        }
        hash.update(&buf[..len]);
        at += len as u64;
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// The same tree of a folder on the host.
pub fn host_tree(root: &Path) -> Tree {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Tree::new();
    let mut left = vec![root.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let mut seen = Seen {
                kind: '?',
                mode: (meta.permissions().mode() & 0xfff) as u16,
                size: None,
                content: String::new(),
            };
            if meta.is_dir() {
                seen.kind = 'd';
                left.push(path.clone());
            } else if meta.is_symlink() {
                seen.kind = 'l';
                let target = std::fs::read_link(&path).unwrap();
                seen.content = target.to_string_lossy().into_owned();
            } else if meta.is_file() {
                seen.kind = 'f';
                seen.size = Some(meta.len());
                seen.content = sha256(&std::fs::read(&path).unwrap());
            }
            found.insert(name.to_vec(), seen);
        }
    }
    found
}

/// Compares two trees and names the first differences.
pub fn assert_same_tree(ours: &Tree, theirs: &Tree, what: &str) {
    for (name, seen) in theirs {
        let name_text = String::from_utf8_lossy(name);
        match ours.get(name) {
            None => panic!("{what}: {name_text} is missing"),
            Some(mine) => assert_eq!(mine, seen, "{what}: {name_text}"),
        }
    }
    for name in ours.keys() {
        assert!(
            theirs.contains_key(name),
            "{what}: {} is not there",
            String::from_utf8_lossy(name)
        );
    }
}

/// Bytes that do not compress and differ by seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// The corpora of foreign images, when the environment names them.
pub fn corpora() -> Option<PathBuf> {
    let found = std::env::var_os("REHOST_CORPORA")
        .map(PathBuf::from)
        .filter(|path| path.is_dir());
    if found.is_none() {
        println!("skipped: needs the corpora (REHOST_CORPORA)");
    }
    found
}

/// Reads a file that may be packed with gzip, bzip2, xz or zstd.
pub fn unpacked(path: &Path) -> Option<Vec<u8>> {
    let tool = match path.extension()?.to_str()? {
        "gz" => "gzip",
        "bz2" => "bzip2",
        "xz" => "xz",
        "zst" => "zstd",
        _ => return std::fs::read(path).ok(),
    };
    if !has(&[tool]) {
        return None;
    }
    let out = Command::new(tool).arg("-dc").arg(path).output().ok()?;
    Some(out.stdout)
}

/// How much a property is tested: with `modest` cases in every run of the tests; with `REHOST_LONG=1` 2000
/// cases, with another number so many.
pub fn property(modest: u32, max_shrink_iters: u32) -> proptest::test_runner::Config {
    let long = std::env::var("REHOST_LONG")
        .ok()
        .and_then(|text| text.parse().ok());
    proptest::test_runner::Config {
        cases: match long {
            None | Some(0) => modest,
            Some(1) => 2000,
            Some(cases) => cases,
        },
        max_shrink_iters,
        ..proptest::test_runner::Config::default()
    }
}
