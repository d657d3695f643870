//! Images over other images, written at random by qemu-io: what it reads is what is read here.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rehost_block::{Kind, SameFolder};
use rehost_image::{Format, Image};

use crate::support::{assert_content, have, noise, qemu_content, run, try_run};

const SECTORS: u64 = 6000;

/// One write, in sectors: zeroes where the pattern is 0.
#[derive(Debug, Clone)]
struct Write {
    at: u64,
    len: u64,
    pattern: u8,
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = (0..SECTORS, 1u64..400, 0u8..9).prop_map(|(at, len, pattern)| Write {
        at,
        len: len.min(SECTORS - at),
        pattern,
    });
    prop::collection::vec(write, 0..12)
}

fn write(folder: &Path, format: &str, name: &str, writes: &[Write]) {
    if writes.is_empty() {
        return;
    }
    let mut args = vec!["-f".to_owned(), format.to_owned()];
    for Write { at, len, pattern } in writes {
        let how = if *pattern == 0 {
            "-z".to_owned()
        } else {
            format!("-P {pattern}")
        };
        args.push("-c".to_owned());
        args.push(format!("write {how} {} {}", at * 512, len * 512));
    }
    args.push(name.to_owned());
    run(folder, "qemu-io", &args);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_qemu_io_wrote_is_read(
        kind in 0usize..5,
        lower in writes(),
        upper in writes(),
        base in any::<bool>(),
    ) {
        if !have(&["qemu-img", "qemu-io"]) {
            return Ok(());
        }
        let (format, options) = [
            ("qed", "cluster_size=4096,table_size=2"),
            ("qed", "cluster_size=65536"),
            ("qcow", ""),
            ("parallels", "cluster_size=65536"),
            ("parallels", "cluster_size=4096"),
        ][kind];
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let size = (SECTORS * 512).to_string();
        let base = base && format != "parallels";
        let mut args = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        if base {
            // A shorter parent: what it lacks is zero.
            let parent = noise(7, 5000 * 512);
            fs::write(folder.join("base.raw"), parent).unwrap();
            args.extend(["-b", "base.raw", "-F", "raw"]);
        }
        args.extend(["one", &size]);
        run(folder, "qemu-img", &args);
        write(folder, format, "one", &lower);
        let mut name = "one";
        if format != "parallels" {
            let args = ["create", "-q", "-f", format, "-b", "one", "-F", format, "two", &size];
            run(folder, "qemu-img", &args);
            write(folder, format, "two", &upper);
            name = "two";
        }
        let expected = qemu_content(folder, name);
        assert_content(&folder.join(name), &expected, format);
    }
}

#[test]
fn a_missing_parent_is_an_error_never_zeroes() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("base.raw"), noise(1, 1 << 20)).unwrap();
    for format in ["qed", "qcow"] {
        let args = [
            "create", "-f", format, "-b", "base.raw", "-F", "raw", format,
        ];
        run(folder, "qemu-img", &args);
        let child = folder.join(format);
        let image = Image::open(&child, None, &SameFolder).unwrap();
        assert_eq!(image.layers().len(), 2);
        assert_eq!(image.layers()[1].format, Format::Raw);
        // QED says that its parent is raw; QCOW leaves it to the parent's content.
        assert_eq!(image.layers()[1].sniffed, format == "qcow");
    }
    fs::remove_file(folder.join("base.raw")).unwrap();
    for format in ["qed", "qcow"] {
        let error = Image::open(folder.join(format), None, &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.to_string().contains("base.raw"), "{error}");
    }
}

#[test]
fn encrypted_qcow_is_refused_by_name() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "create",
        "-f",
        "qcow",
        "--object",
        "secret,id=s,data=geheim",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
        "aes.qcow",
        "1M",
    ];
    if !try_run(folder.path(), "qemu-img", &args).status.success() {
        println!("skipped: needs a qemu-img that encrypts QCOW");
        return;
    }
    let error = Image::open(folder.path().join("aes.qcow"), None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("AES"), "{error}");
}
