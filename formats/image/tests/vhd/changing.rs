//! VHDs changed in place: the content is what a plain model says, for this program, for qemu-img
//! and for libvhdi, and a check finds nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rehost_block::File;
use rehost_image::{Format, OneFile, TargetSpec, create};

use crate::qemu_content;
use crate::support::changing::{Family, any_steps, assert_clean, change, open_edit};
use crate::support::sharing::{backing, fill_over};
use crate::support::writing::{any_writes, write, written};
use crate::support::{assert_content, have, noise, patchwork};

fn spec(size: usize, options: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vhd, size as u64, "disk.vhd").unwrap();
    spec.options.parse(options).unwrap();
    spec
}

fn judge(path: &Path, disk: &[u8]) {
    assert_content(path, disk, "changed");
    assert_clean(path, Format::Vhd);
    if have(&["qemu-img"]) {
        let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap());
        assert!(
            qemu_content(folder, name.to_str().unwrap()) == disk,
            "qemu-img"
        );
    }
}

/// Writes `disk` as the child `name` of `base.vhd`.
fn child(folder: &Path, name: &str, below: &[u8], disk: &[u8]) {
    let mut spec = spec(disk.len(), "block_size=512K");
    spec.backing = Some(backing(&folder.join("base.vhd")));
    let storage = Arc::new(File::create_new(folder.join(name)).unwrap());
    fill_over(&*create(&spec, storage, &OneFile).unwrap(), below, disk);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_changes_are_what_a_model_says(
        sectors in 1usize..9_000,
        writes in any_writes(),
        steps in any_steps(),
        options in prop::sample::select(vec!["block_size=512K", "", "subformat=fixed"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vhd");
        let mut disk = written(sectors, writes);
        write(&path, &spec(disk.len(), options), &disk, 2 << 20);
        for part in steps.chunks(6) {
            let mut layer = open_edit(&path, Format::Vhd).unwrap();
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
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("top.vhd");
        let below = written(sectors, below);
        let mut disk = written(sectors, above);
        write(&folder.path().join("base.vhd"), &spec(below.len(), ""), &below, 2 << 20);
        child(folder.path(), "top.vhd", &below, &disk);
        let mut layer = open_edit(&path, Format::Vhd).unwrap();
        for step in steps {
            change(&mut *layer, &mut disk, &below, 512, step);
        }
        layer.flush().unwrap();
        assert_content(&path, &disk, "changed");
        assert_clean(&path, Format::Vhd);
    }
}

#[test]
fn a_table_that_has_become_too_long_moves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    let mut disk = patchwork(3 << 20);
    write(&path, &spec(disk.len(), ""), &disk, 2 << 20);
    let mut layer = open_edit(&path, Format::Vhd).unwrap();
    // 8192 blocks: 32 KiB of table, where the first block is.
    layer.resize(16 << 30).unwrap();
    layer.put(8 << 30, &noise(1, 4096)).unwrap();
    layer.flush().unwrap();
    assert_clean(&path, Format::Vhd);
    if have(&["qemu-img", "qemu-io"]) {
        let info = crate::support::run(
            folder.path(),
            "qemu-img",
            &["info", "-f", "vpc", "--output=json", "disk.vhd"],
        );
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["virtual-size"], 16u64 << 30);
    }
    let mut layer = open_edit(&path, Format::Vhd).unwrap();
    layer.resize(9 << 20).unwrap();
    layer.flush().unwrap();
    disk.resize(9 << 20, 0);
    judge(&path, &disk);
}

#[test]
fn a_parent_can_be_named_changed_and_taken_away() {
    Family {
        format: Format::Vhd,
        suffix: "vhd",
        reader: "libvhdi",
        write: |path, disk| {
            write(path, &spec(disk.len(), ""), disk, 2 << 20);
        },
        child: |folder, below, disk| child(folder, "top.vhd", below, disk),
        judge,
    }
    .change_parents();
}

#[test]
fn a_disk_that_a_child_is_over_says_that_it_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vhd");
    let base = patchwork(3 << 20);
    write(&path, &spec(base.len(), ""), &base, 2 << 20);
    let bytes = fs::read(&path).unwrap();
    let mut layer = open_edit(&path, Format::Vhd).unwrap();
    layer.flush().unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "nothing changed");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    layer.put(0, &noise(1, 4096)).unwrap();
    layer.flush().unwrap();
    let changed = fs::read(&path).unwrap();
    assert_ne!(changed[24..28], bytes[24..28], "time stamp");
    assert_eq!(changed[68..84], bytes[68..84], "unique id");
}
