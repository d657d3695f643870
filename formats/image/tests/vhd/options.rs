//! What VHDs can be asked for: sizes for Azure, block sizes, parents, devices, shared room.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory, SameFolder};
use rehost_image::{Details, Format, Image, OneFile, TargetSpec, create};

use crate::qemu_content;
use crate::support::second::assert_second;
use crate::support::sharing::{Device, backing, fill_over, fill_places};
use crate::support::writing::{any_writes, fill, write, written};
use crate::support::{assert_content, have, noise, patchwork, read_all, run};

fn spec(size: usize, options: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vhd, size as u64, "disk.vhd").unwrap();
    spec.options.parse(options).unwrap();
    spec
}

fn judge(folder: &Path, name: &str, disk: &[u8]) {
    assert_content(&folder.join(name), disk, name);
    if have(&["qemu-img"]) {
        assert!(qemu_content(folder, name) == disk, "{name}: qemu-img");
    }
}

#[test]
fn azure_gets_whole_mebibytes_and_the_size_in_the_footer() {
    let folder = tempfile::tempdir().unwrap();
    for (size, rounded) in [
        (1 << 20, 1 << 20),
        ((5 << 20) + 512, 6 << 20),
        (512, 1 << 20),
    ] {
        let mut disk = patchwork(size);
        let path = folder.path().join("azure.vhd");
        let written = write(&path, &spec(size, "azure=on"), &disk, 1 << 20);
        disk.resize(rounded, 0);
        assert_eq!(written.file_bytes, rounded as u64 + 512);
        let bytes = fs::read(&path).unwrap();
        let footer = &bytes[rounded..];
        assert_eq!(footer[48..56], (rounded as u64).to_be_bytes());
        assert_eq!(footer[60..64], 2u32.to_be_bytes());
        judge(folder.path(), "azure.vhd", &disk);
        if have(&["qemu-img"]) {
            let args = ["info", "-f", "vpc", "--output=json", "azure.vhd"];
            let judged = run(folder.path(), "qemu-img", &args);
            let judged: serde_json::Value = serde_json::from_slice(&judged).unwrap();
            assert_eq!(judged["virtual-size"], rounded);
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn other_readers_know_every_block_size() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    for size in ["512K", "1M", "4M", "16M"] {
        let name = format!("{size}.vhd");
        let path = folder.path().join(&name);
        let spec = spec(disk.len(), &format!("block_size={size}"));
        write(&path, &spec, &disk, 2 << 20);
        let image = assert_content(&path, &disk, size);
        assert_eq!(image.layers()[0].unit, rehost_image::parse_size(size));
        judge(folder.path(), &name, &disk);
        assert_second("vhd", &path, &[], &["libvhdi"], &disk);
    }
}

#[test]
fn room_that_is_placed_is_filled_by_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    for options in ["", "block_size=512K", "block_size=8M"] {
        let path = folder.path().join("placed.vhd");
        let storage = Arc::new(File::create_new(&path).unwrap());
        let target = create(&spec(disk.len(), options), storage, &OneFile).unwrap();
        fill_places(&*target, &disk, 4 << 20);
        judge(folder.path(), "placed.vhd", &disk);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_device_has_its_footer_in_its_last_sector() {
    let disk = patchwork((5 << 20) + 512);
    for options in ["", "block_size=512K", "subformat=fixed", "azure=on"] {
        let device = Device::new((9 << 20) + 4096);
        let target = create(&spec(disk.len(), options), device.clone(), &OneFile).unwrap();
        fill(&*target, &disk, 2 << 20);
        let bytes = device.to_vec();
        assert!(
            bytes[bytes.len() - 512..].starts_with(b"conectix"),
            "{options}"
        );
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("device"), bytes).unwrap();
        let mut disk = disk.clone();
        if options == "azure=on" {
            disk.resize(6 << 20, 0);
        }
        judge(folder.path(), "device", &disk);
    }
    for (options, len) in [("", 6 << 20), ("subformat=fixed", 5 << 20)] {
        let error = create(&spec(disk.len(), options), Device::new(len), &OneFile)
            .and_then(|target| {
                for (at, piece) in (0..).step_by(2 << 20).zip(disk.chunks(2 << 20)) {
                    target.put(at, target.pack(at, piece)?)?;
                }
                Ok(())
            })
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        assert!(error.to_string().contains("too small"), "{error}");
    }
}

/// Writes `disk` as the child `name` of `parent`.
fn child(folder: &Path, name: &str, parent: &str, below: &[u8], disk: &[u8], options: &str) {
    let mut spec = spec(disk.len(), options);
    spec.backing = Some(backing(&folder.join(parent)));
    let storage = Arc::new(File::create_new(folder.join(name)).unwrap());
    let target = create(&spec, storage, &OneFile).unwrap();
    fill_over(&*target, below, disk);
}

#[test]
fn a_chain_written_here_is_read_by_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let base = patchwork(7 << 20);
    for (kind, block) in [("dynamic", "2M"), ("fixed", "512K")] {
        write(
            &path("base.vhd"),
            &spec(base.len(), &format!("subformat={kind}")),
            &base,
            2 << 20,
        );
        let mut middle = base.clone();
        middle[100_000..100_700].copy_from_slice(&noise(5, 700));
        // Zeroes over data of the parent: in a block of its own, and in one that has data too.
        middle[2 << 20..5 << 20].fill(0);
        middle[150_000..250_000].fill(0);
        let options = format!("block_size={block}");
        child(
            folder.path(),
            "middle.vhd",
            "base.vhd",
            &base,
            &middle,
            &options,
        );
        let mut top = middle.clone();
        top[(6 << 20) + 513] ^= 1;
        child(
            folder.path(),
            "top.vhd",
            "middle.vhd",
            &middle,
            &top,
            &options,
        );
        for (name, disk, parents) in [
            ("middle.vhd", &middle, &["base.vhd"][..]),
            ("top.vhd", &top, &["middle.vhd", "base.vhd"]),
        ] {
            let image = assert_content(&path(name), disk, name);
            assert_eq!(image.layers().len(), parents.len() + 1);
            let Details::Vhd(details) = &image.layers()[0].details else {
                panic!("{name}");
            };
            assert_eq!(details.disk_type, "differencing");
            let parents: Vec<_> = parents.iter().map(|name| path(name)).collect();
            let parents: Vec<&Path> = parents.iter().map(AsRef::as_ref).collect();
            assert_second("vhd", &path(name), &parents, &["libvhdi"], disk);
        }
        // One sector that differs costs one block, not the disk.
        let stored = fs::metadata(path("top.vhd")).unwrap().len();
        assert!(stored < 3 << 20, "{stored}");
        for name in ["base.vhd", "middle.vhd", "top.vhd"] {
            fs::remove_file(path(name)).unwrap();
        }
    }
}

#[test]
fn a_parent_that_changed_since_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vhd");
    let base = patchwork(3 << 20);
    write(&path, &spec(base.len(), ""), &base, 2 << 20);
    child(
        folder.path(),
        "top.vhd",
        "base.vhd",
        &base,
        &noise(1, base.len()),
        "",
    );
    fs::remove_file(&path).unwrap();
    write(&path, &spec(base.len(), ""), &base, 2 << 20);
    let error = Image::open(folder.path().join("top.vhd"), None, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("another disk"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_pattern_over_any_other_survives(
        sectors in 1usize..15_000,
        below in any_writes(),
        above in any_writes(),
        block in prop::sample::select(vec!["512K", "2M", "4M"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let base = written(sectors, below);
        let disk = written(sectors, above);
        write(&folder.path().join("base.vhd"), &spec(base.len(), ""), &base, 2 << 20);
        child(folder.path(), "top.vhd", "base.vhd", &base, &disk, &format!("block_size={block}"));
        let image = assert_content(&folder.path().join("top.vhd"), &disk, "over");
        prop_assert!(read_all(&*image.disk(), 4096) == disk);
    }
}

#[test]
fn what_options_cannot_be_is_refused() {
    let refused = |spec: &TargetSpec| {
        let memory = Arc::new(Memory::new("x.vhd", Vec::new()));
        create(spec, memory, &OneFile).unwrap_err()
    };
    for size in ["256K", "512M", "3M"] {
        let error = refused(&spec(4096, &format!("block_size={size}")));
        assert!(error.to_string().contains("block size"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let base = patchwork(1 << 20);
    write(
        &folder.path().join("base.vhd"),
        &spec(base.len(), ""),
        &base,
        1 << 20,
    );
    fs::write(folder.path().join("base.raw"), &base).unwrap();
    for (parent, options, named) in [
        ("base.vhd", "subformat=fixed", "fixed VHDs"),
        ("base.vhd", "azure=on", "VHDs for Azure"),
        ("base.raw", "", "raw cannot be the parent of a VHD"),
    ] {
        let mut spec = spec(base.len(), options);
        spec.backing = Some(backing(&folder.path().join(parent)));
        let error = refused(&spec);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(named), "{error}");
    }
}
