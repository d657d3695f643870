//! What the tests of all formats share: running the foreign tools, making disk content, writing it
//! into an image, reading a whole disk. Each format uses what it needs of it.

pub(crate) mod changing;
pub(crate) mod corpora;
pub(crate) mod second;
pub(crate) mod sharing;
pub(crate) mod writing;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rehost_block::{Disk, Memory, Result, Run, SameFolder};
use rehost_image::{Format, Image};

/// Whether all of `tools` can be run here; says which one cannot.
pub(crate) fn have(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let found = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok();
        if !found {
            println!("skipped: needs {tool}");
        }
        found
    })
}

/// Runs `tool` in `folder` and gives what it said.
pub(crate) fn try_run<S: AsRef<OsStr>>(folder: &Path, tool: &str, args: &[S]) -> Output {
    Command::new(tool)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Runs `tool` in `folder`; fails the test when it fails.
pub(crate) fn run<S: AsRef<OsStr>>(folder: &Path, tool: &str, args: &[S]) -> Vec<u8> {
    let output = try_run(folder, tool, args);
    assert!(
        output.status.success(),
        "{tool} {:?}: {}{}",
        args.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that compress well and are not constant.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = noise(seed, 64);
    (0..len)
        .map(|i| words[(i / 3 + i / 1000) % words.len()] & 0x1f | 0x40)
        .collect()
}

/// A disk of `len` bytes: noise, text, zeroes and small islands in turn, at odd offsets.
pub(crate) fn patchwork(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let mut at = 0;
    let mut kind = 0u64;
    while at < len {
        let size =
            [200_000, 70_000, 300_000, 1_000, 150_000, 512][(kind % 6) as usize].min(len - at);
        match kind % 6 {
            0 => disk[at..at + size].copy_from_slice(&noise(kind + 1, size)),
            1 | 4 => disk[at..at + size].copy_from_slice(&text(kind + 1, size)),
            3 | 5 => disk[at + size / 2] = 0xa5,
            _ => {}
        }
        at += size;
        kind += 1;
    }
    disk
}

/// The whole disk, read in pieces of `step` bytes.
pub(crate) fn read_all(disk: &dyn Disk, step: usize) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    let mut at = 0;
    for part in bytes.chunks_mut(step) {
        disk.read_at(part, at).unwrap();
        at += part.len() as u64;
    }
    bytes
}

/// Every run of the disk as a word and a length, after checking that they tile it.
pub(crate) fn runs(disk: &dyn Disk) -> Vec<(&'static str, u64)> {
    let mut runs = Vec::new();
    let mut at = 0;
    loop {
        let located = disk.locate(at, u64::MAX).unwrap();
        let word = match located.run {
            Run::At { .. } => "data",
            Run::Zero => "zero",
            Run::Packed(_) => "packed",
            Run::Below => panic!("a disk answered below"),
            Run::End => {
                assert_eq!((at, located.len), (disk.size(), 0));
                return runs;
            }
        };
        assert!(located.len > 0, "empty run at {at}");
        runs.push((word, located.len));
        at += located.len;
    }
}

/// Opens `image` and fails unless its content is `expected`.
pub(crate) fn assert_content(image: &Path, expected: &[u8], what: &str) -> Image {
    let image =
        Image::open(image, None, &SameFolder).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(image.size(), expected.len() as u64, "{what}");
    let disk = image.disk();
    for step in [1 << 20, 77_777] {
        assert!(
            read_all(&*disk, step) == expected,
            "{what}: content differs"
        );
    }
    runs(&*disk);
    image
}

/// The image whose file is `bytes`, under the name `name`.
pub(crate) fn open_bytes(name: &str, bytes: Vec<u8>, format: Option<Format>) -> Result<Image> {
    let storage = Arc::new(Memory::new(name, bytes));
    Image::from_storage(name.into(), storage, format, &SameFolder)
}

/// Reads the first `most` bytes of the disk, or all where it has less.
pub(crate) fn read_start(image: &Image, most: u64) -> Result<()> {
    let disk = image.disk();
    let mut buffer = vec![0; 1 << 20];
    for at in (0..image.size().min(most)).step_by(buffer.len()) {
        let len = buffer
            .len()
            .min(usize::try_from(image.size() - at).unwrap());
        disk.read_at(&mut buffer[..len], at)?;
    }
    Ok(())
}

/// The content of `image` as qemu-img sees it, told apart by qemu-img itself.
pub(crate) fn qemu_content(folder: &Path, image: &str) -> Vec<u8> {
    qemu_content_with(folder, image, &[])
}

/// The content of `image` as qemu-img sees it when `options` are given.
pub(crate) fn qemu_content_with(folder: &Path, image: &str, options: &[&str]) -> Vec<u8> {
    let raw = format!("{image}.judged.raw");
    let args = [&["convert"], options, &["-O", "raw", image, &raw]].concat();
    run(folder, "qemu-img", &args);
    let bytes = fs::read(folder.join(&raw)).unwrap();
    fs::remove_file(folder.join(raw)).unwrap();
    bytes
}

/// Fails unless `name` in `folder` holds `disk` for this program and for qemu-img, which must find
/// nothing wrong with it either.
pub(crate) fn judge(folder: &Path, name: &str, disk: &[u8]) {
    assert_content(&folder.join(name), disk, name);
    run(folder, "qemu-img", &["check", name]);
    assert!(
        qemu_content(folder, name) == disk,
        "{name}: qemu-img reads something else"
    );
}
