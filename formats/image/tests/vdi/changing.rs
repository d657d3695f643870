//! VDIs changed in place, checked and mended: the content is what a plain model says, for this
//! program and for qemu-img, and neither finds anything wrong.

use std::path::Path;

use proptest::prelude::*;
use rehost_image::{Format, Severity, TargetSpec};

use crate::in_memory;
use crate::support::changing::{any_steps, assert_clean, change, check_bytes, open_edit, repaired};
use crate::support::writing::{any_writes, write, written};
use crate::support::{assert_content, have, noise, open_bytes, patchwork, read_all, run};

fn spec(size: usize, options: &str) -> TargetSpec {
    let mut spec = TargetSpec::new(Format::Vdi, size as u64, "disk.vdi").unwrap();
    spec.options.parse(options).unwrap();
    spec
}

fn judge(path: &Path, disk: &[u8]) {
    assert_content(path, disk, "changed");
    assert_clean(path, Format::Vdi);
    if have(&["qemu-img"]) {
        let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap());
        crate::support::judge(folder, name.to_str().unwrap(), disk);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_changes_are_what_a_model_says(
        sectors in 1usize..15_000,
        writes in any_writes(),
        steps in any_steps(),
        options in prop::sample::select(vec!["", "subformat=static"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.vdi");
        let mut disk = written(sectors, writes);
        write(&path, &spec(disk.len(), options), &disk, 1 << 20);
        for part in steps.chunks(6) {
            let mut layer = open_edit(&path, Format::Vdi).unwrap();
            for step in part {
                change(&mut *layer, &mut disk, &[], 512, *step);
            }
            layer.flush().unwrap();
            drop(layer);
            judge(&path, &disk);
        }
    }
}

#[test]
fn a_map_that_has_become_too_long_takes_the_room_of_the_first_blocks() {
    let folder = tempfile::tempdir().unwrap();
    for blocks in [0, 1, 5] {
        let path = folder.path().join(format!("{blocks}.vdi"));
        let mut disk = noise(1, blocks << 20);
        disk.resize(7 << 20, 0);
        write(&path, &spec(disk.len(), ""), &disk, 1 << 20);
        let mut layer = open_edit(&path, Format::Vdi).unwrap();
        // 786432 blocks: 3 MiB of map, where there was 1 MiB.
        layer.resize(768 << 30).unwrap();
        layer.put(700 << 30, &noise(1, 4096)).unwrap();
        layer.flush().unwrap();
        assert_clean(&path, Format::Vdi);
        if have(&["qemu-img"]) {
            run(
                folder.path(),
                "qemu-img",
                &["check", path.to_str().unwrap()],
            );
        }
        let mut layer = open_edit(&path, Format::Vdi).unwrap();
        layer.resize(9 << 20).unwrap();
        layer.flush().unwrap();
        disk.resize(9 << 20, 0);
        judge(&path, &disk);
    }
}

#[test]
fn what_qemu_img_makes_is_clean() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.raw"), patchwork((9 << 20) + 512)).unwrap();
    for options in ["static=off", "static=on"] {
        let args = [
            "convert", "-f", "raw", "-O", "vdi", "-o", options, "a.raw", "a.vdi",
        ];
        run(folder.path(), "qemu-img", &args);
        assert_clean(&folder.path().join("a.vdi"), Format::Vdi);
    }
}

#[test]
fn each_damage_is_found_and_what_is_safe_is_mended() {
    use Severity::{Corruption, Leak};
    let disk = patchwork(5 << 20);
    let whole = in_memory(&disk);
    let clean = check_bytes(whole.clone(), Format::Vdi).unwrap();
    assert!(clean.is_clean(), "{:?}", clean.findings);
    assert_eq!((clean.total_units, clean.allocated_units), (5, 5));
    assert_eq!(
        (clean.fragmented_units, clean.image_end),
        (0, whole.len() as u64)
    );
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Severity, bool, Damage); 5] = [
        ("counts 9 stored blocks", Corruption, true, |b| b[0x184] = 9),
        ("at the end are no block's", Leak, true, |b| {
            b.resize(b.len() + (3 << 20), 0)
        }),
        ("is another block's as well", Corruption, false, |b| {
            b[1 << 20] = 1
        }),
        ("lies past its end", Corruption, false, |b| {
            b[(1 << 20) + 2] = 9
        }),
        ("of the file is nobody's", Leak, false, |b| {
            b[1 << 20..(1 << 20) + 4].fill(0xff)
        }),
    ];
    for (named, severity, mended, damage) in cases {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        let check = check_bytes(bytes.clone(), Format::Vdi).unwrap();
        let found = check
            .findings
            .iter()
            .find(|finding| finding.text.contains(named));
        let found = found.unwrap_or_else(|| panic!("{named}: {:?}", check.findings));
        assert_eq!(found.severity, severity, "{named}");
        let (bytes, after) = repaired(bytes, Format::Vdi);
        assert_eq!(after.is_clean(), mended, "{named}: {:?}", after.findings);
        if mended {
            let image = open_bytes("a.vdi", bytes.clone(), Some(Format::Vdi)).unwrap();
            assert!(read_all(&*image.disk(), 1 << 20) == disk, "{named}");
            assert_eq!(bytes.len(), whole.len(), "{named}");
        }
    }
}
