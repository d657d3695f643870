//! What a VHDX can be asked for: fixed disks, parents, sector sizes, devices, shared room.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, Memory, SameFolder};
use rehost_image::{Details, Format, Image, OneFile, TargetSpec, VhdxKind, create};

use crate::support::second::assert_second;
use crate::support::sharing::{Device, backing, fill_over, fill_places};
use crate::support::writing::{any_writes, fill, write, written};
use crate::support::{assert_content, have, judge, noise, patchwork};

fn spec(size: usize, options: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vhdx, size as u64, "disk.vhdx").unwrap();
    spec.options.parse(options).unwrap();
    spec
}

fn details(image: &Image) -> (VhdxKind, u32, u32) {
    let Details::Vhdx(details) = &image.layers()[0].details else {
        panic!("{:?}", image.layers());
    };
    (
        details.kind,
        details.logical_sector,
        details.physical_sector,
    )
}

#[test]
fn fixed_disks_have_room_for_all_and_are_what_qemu_takes_them_for() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    for block in ["1M", "4M"] {
        let name = format!("{block}.vhdx");
        let path = folder.path().join(&name);
        let options = format!("subformat=fixed,block_size={block}");
        let written = write(&path, &spec(disk.len(), &options), &disk, 1 << 20);
        assert!(written.file_bytes > disk.len() as u64);
        assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
        let image = assert_content(&path, &disk, block);
        assert_eq!(details(&image).0, VhdxKind::Fixed);
        if have(&["qemu-img"]) {
            judge(folder.path(), &name, &disk);
        }
        assert_second("vhdx", &path, &[], &["libvhdi", "dissect"], &disk);
    }
}

#[test]
fn room_that_is_placed_is_filled_by_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork((9 << 20) + 512);
    for options in ["", "block_size=8M", "subformat=fixed"] {
        let path = folder.path().join("placed.vhdx");
        let storage = Arc::new(File::create_new(&path).unwrap());
        let target = create(&spec(disk.len(), options), storage, &OneFile).unwrap();
        if options == "subformat=fixed" {
            let all = target.place(0, disk.len() as u64).unwrap().unwrap();
            assert_eq!(all.len, disk.len() as u64, "one piece");
        }
        fill_places(&*target, &disk, 3 << 20);
        assert_content(&path, &disk, options);
        if have(&["qemu-img"]) {
            judge(folder.path(), "placed.vhdx", &disk);
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn old_data_on_a_device_does_not_shine_through() {
    let disk = patchwork((5 << 20) + 512);
    for options in ["", "block_size=4M", "subformat=fixed"] {
        let device = Device::new(13 << 20);
        let target = create(&spec(disk.len(), options), device.clone(), &OneFile).unwrap();
        fill(&*target, &disk, 64 << 10);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("device"), device.to_vec()).unwrap();
        assert_content(&folder.path().join("device"), &disk, options);
        if have(&["qemu-img"]) {
            judge(folder.path(), "device", &disk);
        }
    }
    let target = create(&spec(disk.len(), ""), Device::new(6 << 20), &OneFile).unwrap();
    let error = target
        .put(0, target.pack(0, &noise(1, 4 << 20)).unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("too small"), "{error}");
}

#[test]
fn both_sector_sizes_are_read_by_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let disk = patchwork(6 << 20);
    for (logical, physical) in [(512, 512), (512, 4096), (4096, 4096), (4096, 512)] {
        let path = folder.path().join(format!("{logical} {physical}.vhdx"));
        let options = format!("logical_sector_size={logical},physical_sector_size={physical}");
        write(&path, &spec(disk.len(), &options), &disk, 1 << 20);
        let image = assert_content(&path, &disk, &options);
        assert_eq!(details(&image), (VhdxKind::Dynamic, logical, physical));
        assert_second("vhdx", &path, &[], &["dissect"], &disk);
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
    for options in [
        "block_size=1M",
        "block_size=2M",
        "block_size=2M,logical_sector_size=4096",
    ] {
        write(
            &path("base.vhdx"),
            &spec(base.len(), options),
            &base,
            1 << 20,
        );
        let mut middle = base.clone();
        middle[100_000..100_700].copy_from_slice(&noise(5, 700));
        // Zeroes over data of the parent: in blocks of their own, and in one that has data too.
        middle[2 << 20..5 << 20].fill(0);
        middle[150_000..250_000].fill(0);
        child(
            folder.path(),
            "middle.avhdx",
            "base.vhdx",
            &base,
            &middle,
            options,
        );
        let mut top = middle.clone();
        top[(6 << 20) + 513] ^= 1;
        child(
            folder.path(),
            "top.avhdx",
            "middle.avhdx",
            &middle,
            &top,
            options,
        );
        for (name, disk, parents) in [
            ("middle.avhdx", &middle, &["base.vhdx"][..]),
            ("top.avhdx", &top, &["middle.avhdx", "base.vhdx"]),
        ] {
            let image = assert_content(&path(name), disk, name);
            assert_eq!(image.layers().len(), parents.len() + 1);
            assert_eq!(details(&image).0, VhdxKind::Differencing);
            let parents: Vec<_> = parents.iter().map(|name| path(name)).collect();
            let parents: Vec<&Path> = parents.iter().map(AsRef::as_ref).collect();
            assert_second("vhdx", &path(name), &parents, &["dissect"], disk);
        }
        for name in ["base.vhdx", "middle.avhdx", "top.avhdx"] {
            fs::remove_file(path(name)).unwrap();
        }
    }
}

#[test]
fn a_parent_that_changed_since_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vhdx");
    let base = patchwork(3 << 20);
    write(&path, &spec(base.len(), ""), &base, 1 << 20);
    child(
        folder.path(),
        "top.vhdx",
        "base.vhdx",
        &base,
        &noise(1, base.len()),
        "",
    );
    fs::remove_file(&path).unwrap();
    write(&path, &spec(base.len(), ""), &base, 1 << 20);
    let error = Image::open(folder.path().join("top.vhdx"), None, &SameFolder).unwrap_err();
    assert!(error.to_string().contains("was changed after"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_pattern_over_any_other_survives(
        sectors in 1usize..15_000,
        below in any_writes(),
        above in any_writes(),
        block in 20u32..23,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let base = written(sectors, below);
        let disk = written(sectors, above);
        write(&folder.path().join("base.vhdx"), &spec(base.len(), ""), &base, 1 << 20);
        let options = format!("block_size={}", 1 << block);
        child(folder.path(), "top.vhdx", "base.vhdx", &base, &disk, &options);
        assert_content(&folder.path().join("top.vhdx"), &disk, "over");
    }
}

#[test]
fn what_options_cannot_be_is_refused() {
    let refused = |spec: &TargetSpec| {
        let memory = Arc::new(Memory::new("x.vhdx", Vec::new()));
        create(spec, memory, &OneFile).unwrap_err()
    };
    let error = refused(&spec(4096, "physical_sector_size=1024"));
    assert!(
        error.to_string().contains("physical sector size"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let base = patchwork(1 << 20);
    write(
        &folder.path().join("base.vhdx"),
        &spec(base.len(), ""),
        &base,
        1 << 20,
    );
    fs::write(folder.path().join("base.raw"), &base).unwrap();
    for (parent, options, named) in [
        ("base.vhdx", "subformat=fixed", "fixed VHDX images"),
        ("base.raw", "", "raw cannot be the parent of a VHDX"),
    ] {
        let mut spec = spec(base.len(), options);
        spec.backing = Some(backing(&folder.path().join(parent)));
        let error = refused(&spec);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(named), "{error}");
    }
}
