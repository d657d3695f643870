//! Images that qemu-img and qemu-io make are read with the content qemu-img reads.

use std::fs;
use std::path::Path;

use rehost_block::{AllowedFolders, Kind, SameFolder};
use rehost_image::{Details, Format, Image};

use crate::support::{assert_content, have, patchwork, qemu_content, run, runs};

fn details(image: &Image) -> &rehost_image::Qcow2Details {
    match &image.layers()[0].details {
        Details::Qcow2(details) => details,
        other => panic!("{other:?}"),
    }
}

#[test]
fn images_converted_by_qemu_img_with_every_option_read_the_same() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = patchwork(3 * 1024 * 1024 + 512);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    let cases: &[&[&str]] = &[
        &["-o", "compat=0.10"],
        &["-o", "compat=0.10,cluster_size=512"],
        &["-o", "compat=0.10", "-c"],
        &["-o", "compat=1.1,cluster_size=512"],
        &["-o", "cluster_size=4096"],
        &["-o", "cluster_size=2M"],
        &["-c"],
        &["-c", "-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=2M"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,cluster_size=4k"],
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
        &["-o", "extended_l2=on"],
        &["-o", "extended_l2=on,cluster_size=16k"],
        &["-o", "extended_l2=on,cluster_size=2M"],
        &["-c", "-o", "extended_l2=on"],
        &["-o", "preallocation=metadata"],
        &["-o", "preallocation=falloc"],
        &["-o", "preallocation=full,cluster_size=1k"],
        &["-o", "preallocation=metadata,extended_l2=on"],
        &["-o", "refcount_bits=1"],
        &["-o", "refcount_bits=64,lazy_refcounts=on"],
        &["-o", "data_file=case.data"],
        &["-o", "data_file=case.data,data_file_raw=on"],
        &["-o", "data_file=case.data,extended_l2=on"],
    ];
    for case in cases {
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend_from_slice(case);
        args.extend_from_slice(&["disk.raw", "case.qcow2"]);
        run(folder, "qemu-img", &args);
        let what = format!("{case:?}");
        let image = assert_content(&folder.join("case.qcow2"), &disk, &what);
        assert_eq!(image.format(), Format::Qcow2, "{what}");
        assert!(image.sniffed(), "{what}");
        let told = details(&image);
        assert_eq!(told.compat == "0.10", what.contains("0.10"), "{what}");
        assert_eq!(told.extended_l2, what.contains("extended_l2"), "{what}");
        assert_eq!(
            told.data_file.is_some(),
            what.contains("data_file"),
            "{what}"
        );
        assert_eq!(told.data_file_raw, what.contains("data_file_raw"), "{what}");
        let files = if what.contains("data_file") { 2 } else { 1 };
        assert_eq!(image.files().len(), files, "{what}");
        let kinds = runs(&*image.disk());
        let packed = kinds.iter().any(|(kind, _)| *kind == "packed");
        assert_eq!(packed, what.contains("-c"), "{what}");
        for name in ["case.qcow2", "case.data"] {
            let _ = fs::remove_file(folder.join(name));
        }
    }
}

#[test]
fn guest_writes_zeroes_and_discards_read_as_qemu_reads_them() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for options in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k,compression_type=zstd",
        "cluster_size=64k,data_file=io.data",
    ] {
        run(
            folder,
            "qemu-img",
            &[
                "create",
                "-f",
                "qcow2",
                "-o",
                "cluster_size=64k",
                "base.qcow2",
                "3M",
            ],
        );
        run(
            folder,
            "qemu-io",
            &["-c", "write -P 0x11 0 2M", "base.qcow2"],
        );
        let with_base = format!("{options},backing_file=base.qcow2,backing_fmt=qcow2");
        let with_base = if options.contains("data_file") {
            options.to_owned()
        } else {
            with_base
        };
        run(
            folder,
            "qemu-img",
            &["create", "-f", "qcow2", "-o", &with_base, "io.qcow2", "4M"],
        );
        let mut commands = vec![
            "write -P 0xa1 1000 3000",
            "write -P 0xa2 65536 131072",
            "write -P 0xa3 131000 70000",
            "write -z 100k 37k",
            "write -z 512k 256k",
            "write -z -u 800k 64k",
            "write -P 0xa4 1M 300k",
            "discard 1100k 64k",
            "write -P 0xa5 2047k 2k",
            "write -P 0xa6 4095k 1k",
        ];
        if !options.contains("data_file") {
            commands.push("write -c -P 0xa7 3M 64k");
        }
        for command in commands {
            run(folder, "qemu-io", &["-c", command, "io.qcow2"]);
        }
        let expected = qemu_content(folder, "io.qcow2");
        assert_content(&folder.join("io.qcow2"), &expected, options);
        for name in ["base.qcow2", "io.qcow2", "io.data"] {
            let _ = fs::remove_file(folder.join(name));
        }
    }
}

#[test]
fn chains_of_raw_and_qcow2_read_through_and_name_every_file() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("below")).unwrap();
    fs::write(folder.join("below/base.raw"), patchwork(700_000)).unwrap();
    let below = folder.join("below");
    let create = |folder: &Path, name: &str, parent: &str, format: &str, size: &str| {
        let base = [
            "create", "-f", "qcow2", "-b", parent, "-F", format, name, size,
        ];
        run(folder, "qemu-img", &base);
    };
    // Each child is bigger than its parent; names are relative to the file that has them.
    create(&below, "middle.qcow2", "base.raw", "raw", "1M");
    run(
        &below,
        "qemu-io",
        &["-c", "write -P 0x22 600k 200k", "middle.qcow2"],
    );
    create(folder, "top.qcow2", "below/middle.qcow2", "qcow2", "2M");
    run(
        folder,
        "qemu-io",
        &[
            "-c",
            "write -P 0x33 1000k 100k",
            "-c",
            "write -z 0 64k",
            "top.qcow2",
        ],
    );

    let expected = qemu_content(folder, "top.qcow2");
    let image = assert_content(&folder.join("top.qcow2"), &expected, "three files");
    let names: Vec<_> = image
        .layers()
        .iter()
        .map(|layer| {
            (
                layer.path.file_name().unwrap().to_str().unwrap(),
                layer.format,
                layer.sniffed,
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("top.qcow2", Format::Qcow2, true),
            ("middle.qcow2", Format::Qcow2, false),
            ("base.raw", Format::Raw, false)
        ]
    );

    // Without a format in the child (qemu-img has long refused to write such), the parent's
    // content decides, and that is told.
    let mut bytes = fs::read(folder.join("top.qcow2")).unwrap();
    let kind = 0xe279_2aca_u32.to_be_bytes();
    let at = bytes.windows(4).position(|four| four == kind).unwrap();
    bytes[at..at + 4].copy_from_slice(&0x1122_3344_u32.to_be_bytes());
    fs::write(folder.join("top.qcow2"), bytes).unwrap();
    let image = assert_content(&folder.join("top.qcow2"), &expected, "unnamed format");
    assert!(image.layers()[1].sniffed);
    assert_eq!(image.layers()[1].format, Format::Qcow2);
}

#[test]
fn a_parent_of_every_format_that_qemu_img_names_is_read() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = patchwork(1 << 20);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    for format in [
        "raw",
        "qcow2",
        "vmdk",
        "vpc",
        "vhdx",
        "vdi",
        "parallels",
        "qed",
        "qcow",
    ] {
        // VHDs made by qemu-img are rounded up to whole cylinders unless told not to be.
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if format == "vpc" {
            args.extend(["-o", "force_size=on"]);
        }
        args.extend(["disk.raw", "base"]);
        run(folder, "qemu-img", &args);
        let child = ["create", "-f", "qcow2", "-b", "base", "-F", format, "child"];
        run(folder, "qemu-img", &child);
        let image = assert_content(&folder.join("child"), &disk, format);
        assert!(!image.layers()[1].sniffed, "{format}");
    }
}

#[test]
fn a_parent_elsewhere_is_opened_only_when_allowed() {
    if !have(&["qemu-img"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let base = away.path().join("base.raw");
    fs::write(&base, patchwork(100_000)).unwrap();
    let base = base.to_str().unwrap();
    run(
        home.path(),
        "qemu-img",
        &[
            "create",
            "-f",
            "qcow2",
            "-b",
            base,
            "-F",
            "raw",
            "top.qcow2",
        ],
    );
    let top = home.path().join("top.qcow2");
    let error = Image::open(&top, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert!(error.to_string().contains("outside its folder"), "{error}");
    let gate = AllowedFolders::new([away.path().to_owned()]).unwrap();
    assert_eq!(Image::open(&top, None, &gate).unwrap().files().len(), 2);
}

#[test]
fn a_chain_that_loops_is_refused() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(
        folder,
        "qemu-img",
        &["create", "-f", "qcow2", "a.qcow2", "1M"],
    );
    run(
        folder,
        "qemu-img",
        &[
            "create", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2",
        ],
    );
    run(
        folder,
        "qemu-img",
        &["rebase", "-u", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2"],
    );
    let error = Image::open(folder.join("a.qcow2"), None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("loops back"), "{error}");
}

#[test]
fn a_parent_behind_a_protocol_is_refused_by_name() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, says) in [
        ("nbd://localhost/x", "protocol \"nbd\""),
        ("json:{\"driver\":\"null-co\"}", "protocol \"json\""),
    ] {
        run(
            folder,
            "qemu-img",
            &[
                "create",
                "-f",
                "qcow2",
                "-u",
                "-b",
                name,
                "-F",
                "raw",
                "top.qcow2",
                "1M",
            ],
        );
        let error = Image::open(folder.join("top.qcow2"), None, &SameFolder).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_wholly_mapped_disk_is_one_run_whatever_the_cluster_size() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for cluster in ["512", "64k"] {
        let options = format!("cluster_size={cluster},preallocation=metadata");
        run(
            folder,
            "qemu-img",
            &["create", "-f", "qcow2", "-o", &options, "one.qcow2", "4M"],
        );
        let image = Image::open(folder.join("one.qcow2"), None, &SameFolder).unwrap();
        let runs = runs(&*image.disk());
        // Small clusters are interrupted by their tables, which lie between them.
        assert!(runs.len() < 200, "{cluster}: {} runs", runs.len());
        if cluster == "64k" {
            assert_eq!(runs, [("data", 4 << 20)]);
        }
    }
}

#[test]
fn snapshots_bitmaps_and_a_dirty_flag_do_not_disturb_the_active_layer() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = patchwork(1 << 20);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    let convert = [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        "lazy_refcounts=on",
    ];
    run(
        folder,
        "qemu-img",
        &[&convert[..], &["disk.raw", "busy.qcow2"]].concat(),
    );
    run(
        folder,
        "qemu-img",
        &["snapshot", "-c", "before", "busy.qcow2"],
    );
    run(
        folder,
        "qemu-img",
        &["bitmap", "--add", "busy.qcow2", "backup"],
    );
    run(
        folder,
        "qemu-io",
        &["-c", "write -P 0x77 100k 300k", "busy.qcow2"],
    );
    let mut expected = disk;
    expected[100 << 10..400 << 10].fill(0x77);

    let path = folder.join("busy.qcow2");
    let mut bytes = fs::read(&path).unwrap();
    bytes[79] |= 1;
    fs::write(&path, bytes).unwrap();
    let image = assert_content(&path, &expected, "snapshots");
    let told = details(&image);
    assert_eq!((told.snapshots, told.bitmaps), (1, 1));
    assert!(told.dirty && told.lazy_refcounts);
}
