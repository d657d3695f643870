//! Filesystems under test at the bottom of a stack of volumes: where their bytes are on the disks, and how
//! they come back for a judge.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, judge, run};

pub(crate) const MIB: usize = 1 << 20;

/// An ext4 filesystem of so many KiB with what is in `tree`.
pub(crate) fn ext4(scratch: &Path, tree: &Path, uuid: &str, label: &str, kib: usize) -> Vec<u8> {
    let image = scratch.join(format!("{label}.ext4"));
    judge(
        Command::new("mke2fs")
            .args([
                "-q", "-F", "-t", "ext4", "-b", "1024", "-U", uuid, "-L", label, "-d",
            ])
            .arg(tree)
            .arg(&image)
            .arg(kib.to_string()),
    );
    fs::read(image).unwrap()
}

/// `parts`, one after the other, each in a partition of a DOS table.
pub(crate) fn partitioned(parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; MIB];
    disk[440..444].copy_from_slice(&0x1234_abcdu32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (nth, (kind, bytes)) in parts.iter().enumerate() {
        let entry = 446 + nth * 16;
        let first = u32::try_from(disk.len() / 512).unwrap();
        let count = u32::try_from(bytes.len() / 512).unwrap();
        disk[entry + 4] = *kind;
        disk[entry + 8..entry + 12].copy_from_slice(&first.to_le_bytes());
        disk[entry + 12..entry + 16].copy_from_slice(&count.to_le_bytes());
        disk.extend_from_slice(bytes);
        disk.resize(disk.len().next_multiple_of(MIB), 0);
    }
    disk
}

/// Writes a file and gives its name; what is zero stays a hole.
pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (nth, piece) in bytes.chunks(64 << 10).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (nth * (64 << 10)) as u64).unwrap();
        }
    }
    path.to_str().unwrap().to_owned()
}

pub(crate) fn qemu_img(args: &[&str]) {
    judge(Command::new("qemu-img").args(args));
}

/// The raw disk of an image that other tests call by `format`.
pub(crate) fn raw_of(image: &str, format: &str) -> Vec<u8> {
    let raw = format!("{image}.judged");
    qemu_img(&["convert", "-f", format, "-O", "raw", image, &raw]);
    let bytes = fs::read(&raw).unwrap();
    fs::remove_file(raw).unwrap();
    bytes
}

/// A loop mount that ends with it.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None`, said aloud, where this machine cannot mount.
    pub(crate) fn new(images: &[&Path], at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let (first, rest) = images.split_first()?;
        let mut options = format!("loop,{options}");
        // Btrfs wants its other members named; loop devices for them end with the mount.
        for image in rest {
            let out = Command::new("losetup")
                .args(["-f", "--show"])
                .arg(image)
                .output()
                .ok()?;
            let device = String::from_utf8(out.stdout).unwrap();
            if !out.status.success() {
                println!("skipped: needs losetup as root");
                return None;
            }
            options += &format!(",device={}", device.trim());
        }
        let out = Command::new("mount")
            .args(["-o", &options])
            .args([first, at])
            .output();
        // Detached as soon as nothing holds them.
        for image in rest {
            detach(image);
        }
        match out {
            Ok(out) if out.status.success() => return Some(Self(at.to_owned())),
            Ok(out) => println!(
                "skipped: needs loop mounts: {}",
                String::from_utf8_lossy(&out.stderr).trim()
            ),
            Err(error) => println!("skipped: needs mount: {error}"),
        }
        None
    }
}

fn detach(image: &Path) {
    let listed = Command::new("losetup").arg("-j").arg(image).output();
    let listed = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    for line in listed.unwrap_or_default().lines() {
        if let Some((device, _)) = line.split_once(':') {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// How the program is told where to look: the image, and what comes behind the other words.
pub(crate) struct Target<'a> {
    pub(crate) image: &'a str,
    pub(crate) more: &'a [&'a str],
}

impl Target<'_> {
    pub(crate) fn run(&self, verb: &str, words: &[&str]) -> Ran {
        run([&[verb, self.image][..], words, self.more].concat())
    }

    pub(crate) fn copy_in(&self, source: &Path, inside: &str, words: &[&str]) -> Ran {
        let target = format!("{}:{inside}", self.image);
        let source = source.to_str().unwrap();
        run([&["cp", source, &target][..], words, self.more].concat())
    }

    /// Changes files in every way that a command has, in place. The filesystem holds `keep` and `old`;
    /// `large` is how long the largest new file is.
    pub(crate) fn change(&self, scratch: &Path, large: usize) {
        let site = scratch.join("site");
        fs::create_dir_all(site.join("css")).unwrap();
        fs::write(site.join("index"), "hello").unwrap();
        fs::write(site.join("css/style"), noise(7, large)).unwrap();
        if !site.join("link").is_symlink() {
            std::os::unix::fs::symlink("index", site.join("link")).unwrap();
        }
        let kept = scratch.join("kept");
        fs::write(&kept, noise(8, large / 2)).unwrap();
        self.copy_in(&site, "/", &["-r", "--in-place"]).exits(0);
        self.copy_in(&kept, "/keep", &["--in-place"]).exits(0);
        self.run("rm", &["/old", "--in-place"]).exits(0);
    }

    /// What [`Target::change`] put there reads back.
    pub(crate) fn assert_changed(&self, scratch: &Path) {
        let out = scratch.join("read-back");
        let _ = fs::remove_dir_all(&out);
        let inside = format!("{}:/", self.image);
        let words = ["cp", "-r", &inside, out.to_str().unwrap()];
        run([&words[..], self.more].concat()).exits(0);
        assert_tree(scratch, &out);
    }
}

/// A directory holds what [`Target::change`] leaves.
pub(crate) fn assert_tree(scratch: &Path, at: &Path) {
    judge(
        Command::new("diff")
            .arg("-r")
            .arg(scratch.join("site"))
            .arg(at.join("site")),
    );
    judge(
        Command::new("cmp")
            .arg(scratch.join("kept"))
            .arg(at.join("keep")),
    );
    assert!(!at.join("old").exists());
}

/// What every filesystem under test holds before: `keep`, `old` and a directory.
pub(crate) fn tree_before(scratch: &Path) -> PathBuf {
    let tree = scratch.join("before");
    fs::create_dir_all(tree.join("dir")).unwrap();
    fs::write(tree.join("keep"), noise(1, 5000)).unwrap();
    fs::write(tree.join("old"), noise(2, 9000)).unwrap();
    fs::write(tree.join("dir/other"), "other\n").unwrap();
    tree
}

/// A filesystem whose bytes were taken out of its stack: its own checker finds nothing, and the kernel reads
/// what was written.
pub(crate) fn judge_filesystem(scratch: &Path, kind: &str, bytes: &[u8]) {
    let path = PathBuf::from(write(scratch, "out-of-the-stack", bytes));
    match kind {
        "ext4" => judge(Command::new("e2fsck").args(["-f", "-n"]).arg(&path)),
        "xfs" => judge(Command::new("xfs_repair").arg("-n").arg(&path)),
        _ => judge(
            Command::new("btrfs")
                .args(["check", "--check-data-csum"])
                .arg(&path),
        ),
    };
    let at = scratch.join("at");
    let options = if kind == "xfs" { "ro,nouuid" } else { "ro" };
    if let Some(_mounted) = Mount::new(&[&path], &at, options) {
        assert_tree(scratch, &at);
    }
}

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
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
