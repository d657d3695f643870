//! VHDX changed in place: the content is what a plain model says, for this program, for qemu-img
//! and for dissect, and a check finds nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::{File, Kind, SameFolder};
use rehost_image::{Details, Format, Image, OneFile, TargetSpec, VhdxDetails, create};

use crate::support::changing::{Family, any_steps, assert_clean, change, open_edit};
use crate::support::sharing::{backing, fill_over};
use crate::support::writing::{any_writes, write, written};
use crate::support::{assert_content, have, noise, patchwork, run};

fn spec(size: usize, options: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vhdx, size as u64, "disk.vhdx").unwrap();
    spec.options.parse(options).unwrap();
    spec
}

fn judge(path: &Path, disk: &[u8]) {
    assert_content(path, disk, "changed");
    assert_clean(path, Format::Vhdx);
    if have(&["qemu-img"]) {
        let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap());
        crate::support::judge(folder, name.to_str().unwrap(), disk);
    }
}

fn details(path: &Path) -> VhdxDetails {
    let image = Image::open(path, None, &SameFolder).unwrap();
    let Details::Vhdx(details) = &image.layers()[0].details else {
        panic!("a VHDX");
    };
    details.clone()
}

/// Writes `disk` as the child `top.vhdx` of `base.vhdx`.
fn child(folder: &Path, below: &[u8], disk: &[u8], options: &str) {
    let mut spec = spec(disk.len(), options);
    spec.backing = Some(backing(&folder.join("base.vhdx")));
    let storage = Arc::new(File::create_new(folder.join("top.vhdx")).unwrap());
    fill_over(&*create(&spec, storage, &OneFile).unwrap(), below, disk);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_changes_are_what_a_model_says(
        sectors in 1usize..9_000,
        writes in any_writes(),
        steps in any_steps(),
        options in prop::sample::select(vec!["", "block_size=2M", "subformat=fixed"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vhdx");
        let mut disk = written(sectors, writes);
        write(&path, &spec(disk.len(), options), &disk, 1 << 20);
        for part in steps.chunks(6) {
            let mut layer = open_edit(&path, Format::Vhdx).unwrap();
            for step in part {
                change(&mut *layer, &mut disk, &[], 512, *step);
            }
            layer.flush().unwrap();
            drop(layer);
            judge(&path, &disk);
        }
    }

    #[test]
    fn any_changes_over_a_parent_are_what_a_model_says(
        sectors in 1usize..6_000,
        below in any_writes(),
        above in any_writes(),
        steps in any_steps(),
        options in prop::sample::select(vec!["", "block_size=2M"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("top.vhdx");
        let below = written(sectors, below);
        let mut disk = written(sectors, above);
        write(&folder.path().join("base.vhdx"), &spec(below.len(), ""), &below, 1 << 20);
        child(folder.path(), &below, &disk, options);
        let mut layer = open_edit(&path, Format::Vhdx).unwrap();
        for step in steps {
            change(&mut *layer, &mut disk, &below, 512, step);
        }
        layer.flush().unwrap();
        assert_content(&path, &disk, "changed");
        assert_clean(&path, Format::Vhdx);
    }
}

#[test]
fn disks_of_4096_byte_sectors_change_in_those() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("top.vhdx");
    let base = patchwork(4 << 20);
    let options = "logical_sector_size=4096";
    write(
        &folder.path().join("base.vhdx"),
        &spec(base.len(), options),
        &base,
        1 << 20,
    );
    let mut disk = base.clone();
    disk[8192..12_288].copy_from_slice(&noise(1, 4096));
    child(folder.path(), &base, &disk, options);
    let mut layer = open_edit(&path, Format::Vhdx).unwrap();
    layer.put(16_384, &noise(2, 4096)).unwrap();
    layer.forget(8192, 4096).unwrap();
    layer.zero(40_960, 8192).unwrap();
    let error = layer.resize((5 << 20) + 512).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    layer.resize(5 << 20).unwrap();
    layer.flush().unwrap();
    let mut disk = base;
    disk.resize(5 << 20, 0);
    disk[16_384..20_480].copy_from_slice(&noise(2, 4096));
    disk[40_960..49_152].fill(0);
    assert_content(&path, &disk, "4096");
    assert_clean(&path, Format::Vhdx);
}

#[test]
fn a_table_that_has_become_too_long_moves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    let mut disk = patchwork(3 << 20);
    write(&path, &spec(disk.len(), ""), &disk, 1 << 20);
    let mut layer = open_edit(&path, Format::Vhdx).unwrap();
    // 262144 blocks: 2 MiB of table and more, where there was 1 MiB.
    layer.resize(256 << 30).unwrap();
    layer.put(200 << 30, &noise(1, 4096)).unwrap();
    layer.flush().unwrap();
    assert_clean(&path, Format::Vhdx);
    if have(&["qemu-img"]) {
        run(folder.path(), "qemu-img", &["check", "disk.vhdx"]);
        let info = run(
            folder.path(),
            "qemu-img",
            &["info", "--output=json", "disk.vhdx"],
        );
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["virtual-size"], 256u64 << 30);
    }
    let mut layer = open_edit(&path, Format::Vhdx).unwrap();
    layer.resize(9 << 20).unwrap();
    layer.flush().unwrap();
    disk.resize(9 << 20, 0);
    judge(&path, &disk);
}

#[test]
fn a_parent_can_be_named_changed_and_taken_away() {
    Family {
        format: Format::Vhdx,
        suffix: "vhdx",
        reader: "dissect",
        write: |path, disk| {
            write(path, &spec(disk.len(), ""), disk, 1 << 20);
        },
        child: |folder, below, disk| child(folder, below, disk, ""),
        judge,
    }
    .change_parents();
}

#[test]
fn the_first_change_gives_the_disk_a_new_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vhdx");
    let base = patchwork(3 << 20);
    write(&path, &spec(base.len(), ""), &base, 1 << 20);
    let bytes = fs::read(&path).unwrap();
    let before = details(&path);
    let mut layer = open_edit(&path, Format::Vhdx).unwrap();
    layer.flush().unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "nothing changed");
    layer.set_backing(None).unwrap();
    assert_eq!(details(&path).data_write_guid, before.data_write_guid);
    layer.put(0, &noise(1, 4096)).unwrap();
    layer.flush().unwrap();
    let after = details(&path);
    assert_ne!(after.data_write_guid, before.data_write_guid);
    assert_eq!(after.disk_id, before.disk_id);
}

#[test]
fn a_dirty_log_is_in_the_file_after_an_edit() {
    let Some(records) = crate::support::corpora::records(|_| true) else {
        return;
    };
    let record = records
        .iter()
        .find(|record| record.name() == "iotest-dirtylog-10G-4M.vhdx")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dirty.vhdx");
    record.unpack(&path);
    assert_eq!(details(&path).replayed, 1);
    let check = crate::support::changing::checked(&path, Format::Vhdx);
    let told = check
        .findings
        .iter()
        .any(|finding| finding.structure == "log");
    assert!(told, "{:?}", check.findings);
    let mut layer = open_edit(&path, Format::Vhdx).unwrap();
    layer.put(18 << 20, &noise(1, 4096)).unwrap();
    layer.flush().unwrap();
    assert_eq!(details(&path).replayed, 0);
    assert_clean(&path, Format::Vhdx);
    let disk = Image::open(&path, None, &SameFolder).unwrap().disk();
    let mut start = vec![0; (18 << 20) + 4096];
    disk.read_at(&mut start, 0).unwrap();
    assert!(start[..18 << 20].iter().all(|byte| *byte == 0xa5));
    assert!(start[18 << 20..] == noise(1, 4096));
    if have(&["qemu-img"]) {
        run(folder.path(), "qemu-img", &["check", "dirty.vhdx"]);
    }
}
