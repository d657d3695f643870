//! Internal snapshots: read as they were, made, applied and deleted, with qemu-img as the judge.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rehost_block::{File, Kind, SameFolder};
use rehost_image::{Format, Image, OpenOptions};

use crate::judging::{SORTS, Sort, assert_sound, edit_snapshots, qemu_content_at, qemu_io};
use crate::support::{have, read_all, run};

const SIZE: usize = 600 << 10;

fn at(path: &Path, snapshot: &str) -> Vec<u8> {
    let options = OpenOptions {
        snapshot: Some(snapshot),
        ..OpenOptions::default()
    };
    let image = Image::open_with(path, &options, &SameFolder).unwrap();
    read_all(&*image.disk(), 1 << 20)
}

#[test]
fn snapshots_made_here_and_by_qemu_img_are_read_applied_and_deleted_by_both() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let image = "disk.qcow2";
    let path = folder.join(image);
    for sort in SORTS.iter().filter(|sort| sort.snapshots) {
        let what = sort.options;
        sort.create(folder, image, SIZE, None);
        let write = |commands: &[&str]| {
            let commands: Vec<_> = commands.iter().map(|x| (*x).to_owned()).collect();
            qemu_io(folder, image, &commands);
        };
        write(&["write -P 1 0 200k", "write -c -P 2 256k 256k"]);
        run(folder, "qemu-img", &["snapshot", "-c", "theirs", image]);
        write(&["write -P 3 100k 120k", "write -P 4 400k 64k"]);
        let date = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let mut edit = edit_snapshots(&path).unwrap();
        let made = edit.create("ours", date).unwrap();
        assert_eq!(
            (made.id.as_str(), made.disk_size),
            ("2", SIZE as u64),
            "{what}"
        );
        let again = edit.create("ours", date).unwrap_err();
        assert_eq!(again.kind(), Kind::Usage, "{again}");
        edit.flush().unwrap();
        drop(edit);
        assert_sound(folder, image, what);
        write(&["write -P 5 50k 200k", "write -P 6 400k 200k"]);
        assert_sound(folder, image, what);
        let states = [Some("theirs"), Some("ours"), None]
            .map(|snapshot| qemu_content_at(folder, image, snapshot));
        assert!(at(&path, "theirs") == states[0], "{what}");
        assert!(at(&path, "1") == states[0], "{what}");
        assert!(at(&path, "ours") == states[1], "{what}");
        let told =
            rehost_image::snapshots(&path, Format::Qcow2, Arc::new(File::open(&path).unwrap()))
                .unwrap();
        let told: Vec<_> = told
            .iter()
            .map(|x| (x.id.as_str(), x.name.as_str()))
            .collect();
        assert_eq!(told, [("1", "theirs"), ("2", "ours")]);

        let mut edit = edit_snapshots(&path).unwrap();
        assert_eq!(edit.apply("none").unwrap_err().kind(), Kind::Usage);
        edit.apply("theirs").unwrap();
        edit.flush().unwrap();
        drop(edit);
        assert_sound(folder, image, what);
        assert!(qemu_content_at(folder, image, None) == states[0], "{what}");
        write(&["write -P 7 0 600k"]);
        assert_sound(folder, image, what);
        run(folder, "qemu-img", &["snapshot", "-a", "ours", image]);
        assert!(qemu_content_at(folder, image, None) == states[1], "{what}");

        let mut edit = edit_snapshots(&path).unwrap();
        edit.delete("1").unwrap();
        edit.flush().unwrap();
        drop(edit);
        assert_sound(folder, image, what);
        assert!(
            qemu_content_at(folder, image, Some("ours")) == states[1],
            "{what}"
        );
        let mut edit = edit_snapshots(&path).unwrap();
        edit.delete("ours").unwrap();
        edit.flush().unwrap();
        assert_eq!(edit.list(), []);
        drop(edit);
        assert_sound(folder, image, what);
        assert!(qemu_content_at(folder, image, None) == states[1], "{what}");
        write(&["write -P 8 0 600k"]);
        assert_sound(folder, image, what);
    }
}

#[test]
fn images_that_cannot_have_snapshots_say_so() {
    if !have(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let never = |sort: &&Sort| sort.data_file || sort.options.contains("refcount_bits=1,");
    for sort in SORTS.iter().filter(never) {
        sort.create(folder, "disk.qcow2", SIZE, None);
        let mut edit = edit_snapshots(&folder.join("disk.qcow2")).unwrap();
        let error = edit.create("one", UNIX_EPOCH).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
    std::fs::write(folder.join("disk.raw"), [1; 512]).unwrap();
    let options = OpenOptions {
        format: Some(Format::Raw),
        snapshot: Some("one"),
        ..OpenOptions::default()
    };
    let error = Image::open_with(folder.join("disk.raw"), &options, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}
