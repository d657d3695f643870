//! What the usual programs pack is read, by its index where it has one.

use std::fs;
use std::path::Path;

use rehost_block::{Kind, SameFolder};
use rehost_image::{Format, Image, TargetSpec, Wrapper};

use crate::support::writing::write;
use crate::support::{have, noise, patchwork, read_all, run};
use crate::{open, pieces, wrapping};

/// Runs a shell line in `folder`.
fn shell(folder: &Path, line: &str) {
    run(folder, "sh", &["-c", line]);
}

#[test]
fn each_way_of_packing_is_read() {
    if !have(&["gzip", "xz", "zstd", "bzip2"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((3 << 20) + 512);
    fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    // The line, the wrapper, and how many pieces its index has.
    let cases = [
        ("gzip -k disk.raw", "gz", "gzip", None),
        (
            "(head -c 1000000 disk.raw | gzip; tail -c +1000001 disk.raw | gzip -1) > disk.raw.gz",
            "gz",
            "gzip",
            None,
        ),
        ("xz -k disk.raw", "xz", "xz", Some(1)),
        (
            "xz -k --check=none -T1 --block-size=1000001 disk.raw",
            "xz",
            "xz",
            Some(4),
        ),
        (
            "xz -k --check=sha256 --block-size=65536 disk.raw",
            "xz",
            "xz",
            Some(49),
        ),
        (
            "(head -c 1000000 disk.raw | xz -0; tail -c +1000001 disk.raw | xz -0) > disk.raw.xz; head -c 8 /dev/zero >> disk.raw.xz",
            "xz",
            "xz",
            None,
        ),
        ("zstd -q -k disk.raw", "zst", "zstd", Some(1)),
        ("cat disk.raw | zstd -q > disk.raw.zst", "zst", "zstd", None),
        (
            "split -b 700001 disk.raw part. && zstd -q -k part.* && cat part.*.zst > disk.raw.zst",
            "zst",
            "zstd",
            Some(5),
        ),
        ("bzip2 -k disk.raw", "bz2", "bzip2", None),
    ];
    for (line, suffix, name, expected) in cases {
        shell(folder.path(), line);
        let path = folder.path().join(format!("disk.raw.{suffix}"));
        let image = open(&path).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(image.format(), Format::Raw, "{line}");
        assert_eq!(wrapping(&image).wrapper.as_str(), name, "{line}");
        assert_eq!(wrapping(&image).plain_size, disk.len() as u64, "{line}");
        assert_eq!(pieces(&image), expected, "{line}");
        for step in [77_777, 1 << 20] {
            assert!(read_all(&*image.disk(), step) == disk, "{line}");
        }
        // Backwards too.
        let mut part = vec![0; 1000];
        for at in (0..disk.len() - 1000).step_by(200_003).rev() {
            image.disk().read_at(&mut part, at as u64).unwrap();
            assert!(part == disk[at..at + 1000], "{line} at {at}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_wrapped_image_is_the_image_inside() {
    if !have(&["gzip", "xz", "zstd", "bzip2"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork(2 << 20);
    for (line, format) in [
        ("gzip", Format::Qcow2),
        ("xz", Format::Vmdk),
        ("zstd -q --rm", Format::Vhdx),
        ("bzip2", Format::Vdi),
    ] {
        let name = format!("disk.{format}");
        let spec = TargetSpec::new(format, disk.len() as u64, &name).unwrap();
        write(&folder.path().join(&name), &spec, &disk, 1 << 20);
        shell(folder.path(), &format!("{line} {name}"));
        let found = fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let image = open(&found.path()).unwrap();
        assert_eq!(image.format(), format);
        assert!(image.sniffed());
        assert!(read_all(&*image.disk(), 100_000) == disk, "{format}");
        let layer = &image.layers()[0];
        assert_eq!(layer.file_size, found.metadata().unwrap().len());
        fs::remove_file(found.path()).unwrap();
    }
}

#[test]
fn a_raw_disk_that_begins_like_a_wrapper_is_raw_when_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = noise(1, 4096);
    disk[..3].copy_from_slice(&[0x1f, 0x8b, 8]);
    let path = folder.path().join("disk.raw");
    fs::write(&path, &disk).unwrap();
    assert_eq!(open(&path).unwrap_err().kind(), Kind::Corrupt);
    let image = Image::open(&path, Some(Format::Raw), &SameFolder).unwrap();
    assert!(image.layers()[0].wrapper.is_none());
    assert!(read_all(&*image.disk(), 1000) == disk);
}

#[test]
fn zeroes_take_no_room_and_the_limit_is_kept() {
    if !have(&["gzip", "bzip2"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        "head -c 60M /dev/zero | gzip -9 > z.gz; head -c 65M /dev/zero | gzip > y.gz",
    );
    let image = open(&folder.path().join("z.gz")).unwrap();
    let located = image.disk().locate(0, u64::MAX).unwrap();
    assert!(
        matches!(located.run, rehost_block::Run::Zero),
        "{located:?}"
    );
    let error = open(&folder.path().join("y.gz")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("REHOST_UNPACK_LIMIT"), "{error}");
}

#[test]
fn a_wrapper_in_a_wrapper_is_refused_by_name() {
    if !have(&["gzip", "xz"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    shell(folder.path(), "echo disk | gzip | xz > twice.gz.xz");
    let error = open(&folder.path().join("twice.gz.xz")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("in xz and in gzip"), "{error}");
}

#[test]
fn suffixes_and_words_name_wrappers() {
    for (name, wrapper) in [
        ("a.raw.gz", Some(Wrapper::Gzip)),
        ("a.XZ", Some(Wrapper::Xz)),
        ("a.zst", Some(Wrapper::Zstd)),
        ("a.bz2", Some(Wrapper::Bzip2)),
        ("a.raw", None),
    ] {
        assert_eq!(Wrapper::of_name(Path::new(name)), wrapper);
    }
}
