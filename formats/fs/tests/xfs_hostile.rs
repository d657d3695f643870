//! XFS images with flipped bytes: reading ends, with an answer or a named error.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use rehost_block::{Disk, DiskMut as _, Kind, Overlay};
use rehost_fs::Xfs;
use support::*;

/// A prototype with every form of directory that mkfs makes.
fn prototype(folder: &Path) -> String {
    let content = folder.join("content");
    std::fs::write(&content, noise(1, 30_000)).unwrap();
    let mut text = String::from("/stand/boot\n1 1\nd--755 0 0\nlink l--777 0 0 target\n");
    for (dir, count) in [("few", 3), ("some", 50), ("many", 300)] {
        text.push_str(&format!("{dir} d--755 0 0\n"));
        for nth in 0..count {
            let name = format!("a-file-with-a-rather-long-name-{nth}");
            text.push_str(&format!("{name} ---644 0 0 {}\n", content.display()));
        }
        text.push_str("$\n");
    }
    text + "$\n"
}

/// An image, and the byte offsets of its sectors: in use, with inodes or directories, with records
/// of the log.
struct Image {
    disk: Arc<dyn Disk>,
    used: Vec<u64>,
    marked: Vec<u64>,
    log: Vec<u64>,
}

impl Image {
    /// Its file may be deleted: it stays open.
    fn new(path: &Path) -> Self {
        let image = std::fs::read(path).unwrap();
        let sectors = |wanted: &dyn Fn(&[u8]) -> bool| -> Vec<u64> {
            let found = image.chunks(512).zip(0u64..);
            found
                .filter(|(sector, _)| wanted(sector))
                .map(|(_, nth)| nth * 512)
                .collect()
        };
        Self {
            disk: file_disk(path),
            used: sectors(&|sector| sector.iter().any(|byte| *byte != 0)),
            marked: sectors(&|sector| sector.starts_with(b"IN") || sector.starts_with(b"XD")),
            log: sectors(&|sector| sector.starts_with(&[0xfe, 0xed, 0xba, 0xbe])),
        }
    }
}

/// Images without and with checksums, and one with a log to replay where it can be made.
fn images() -> &'static [Image] {
    static MADE: OnceLock<Vec<Image>> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let proto = folder.path().join("proto");
        std::fs::write(&proto, prototype(folder.path())).unwrap();
        let image = folder.path().join("fs.raw");
        let mut made = Vec::new();
        for shape in [
            &["-m", "crc=0"][..],
            &["-m", "crc=0", "-b", "size=1024"],
            &["-m", "crc=1"],
        ] {
            mkfs_xfs(&image, shape, Some(&proto));
            made.push(Image::new(&image));
        }
        made.extend(crashed(folder.path(), &image));
        made
    })
}

/// An image of a filesystem that was shut down with a log to replay.
fn crashed(folder: &Path, image: &Path) -> Option<Image> {
    let at = folder.join("at");
    std::fs::create_dir_all(&at).unwrap();
    let mount = |program: &str, args: &[&Path]| Command::new(program).args(args).output();
    let out = mount("mount", &["-oloop".as_ref(), image, &at]).ok()?;
    if !out.status.success() || !has(&["xfs_io"]) {
        println!("skipped: needs loop mounts of xfs for a log to replay");
        return None;
    }
    for nth in 0..100 {
        std::fs::write(at.join(format!("some/new-{nth}")), b"new").unwrap();
    }
    let out = Command::new("xfs_io")
        .args(["-x", "-c", "shutdown -f"])
        .arg(&at)
        .output();
    mount("umount", &[&at]).ok()?;
    out.ok()?.status.success().then(|| Image::new(image))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 50, ..ProptestConfig::default() })]
    #[test]
    fn flipped_bytes_never_panic_or_hang(
        which in 0..4usize,
        flips in prop::collection::vec((0..4u8, any::<u32>(), any::<u8>()), 1..10),
    ) {
        if !has(&["mkfs.xfs"]) {
            return Ok(());
        }
        let all = images();
        let image = &all[which % all.len()];
        let view = Overlay::in_memory(image.disk.clone());
        for (place, at, value) in flips {
            let within = u64::from(at / 7919) % 512;
            let one_of = |sectors: &[u64]| sectors[at as usize % sectors.len()];
            // The superblock, inodes and directories, the log, anything in use.
            let target = match place {
                0 => u64::from(at) % 264,
                1 => one_of(&image.marked) + within % 176,
                2 => one_of(&image.log) + u64::from(at / 7919) % 2048,
                _ => one_of(&image.used) + within,
            };
            view.write_at(&[value], target).unwrap();
        }
        match Xfs::open(Arc::new(view)).and_then(|fs| tree(&fs)) {
            Ok(_) => {}
            Err(error) => {
                assert_ne!(error.kind(), Kind::Internal, "{error}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
