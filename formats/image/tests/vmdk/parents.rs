//! Snapshots and linked clones: the parent is found, and it is the right one.

use std::fs;
use std::path::Path;

use rehost_block::{Kind, SameFolder};
use rehost_image::Image;

use crate::reading::make;
use crate::support::{assert_content, have, noise, qemu_content, run};

const SIZE: usize = 3 << 20;

/// `base.vmdk`, `middle.vmdk` over it, `top.vmdk` over that; writes, zeroes and holes in each.
fn chain(folder: &Path) {
    make(
        folder,
        "base.vmdk",
        &noise(5, SIZE),
        "subformat=monolithicSparse",
    );
    // A child remembers what its parent is when it is made: the parent is written first.
    let steps: [(&str, &str, &[&str]); 2] = [
        (
            "middle.vmdk",
            "base.vmdk",
            &["write -P 0x11 100k 300k", "write -z 1M 512k"],
        ),
        (
            "top.vmdk",
            "middle.vmdk",
            &[
                "write -P 0x22 350k 9k",
                "write -z 64k 64k",
                "write -P 0x33 1M 4k",
            ],
        ),
    ];
    for (child, parent, writes) in steps {
        let create = "create -f vmdk -o zeroed_grain=on,compat6 -F vmdk -b";
        let args: Vec<&str> = create.split(' ').chain([parent, child]).collect();
        run(folder, "qemu-img", &args);
        let mut args = vec!["-f", "vmdk", child];
        writes.iter().for_each(|write| args.extend(["-c", write]));
        run(folder, "qemu-io", &args);
    }
}

#[test]
fn a_chain_reads_as_qemu_reads_it() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    for name in ["middle.vmdk", "top.vmdk"] {
        let expected = qemu_content(folder.path(), name);
        let image = assert_content(&folder.path().join(name), &expected, name);
        assert_eq!(image.layers().len(), if name == "top.vmdk" { 3 } else { 2 });
    }
}

#[test]
fn a_parent_that_changed_or_is_missing_is_an_error() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let top = folder.path().join("top.vmdk");
    run(
        folder.path(),
        "qemu-io",
        &["-f", "vmdk", "-c", "write 0 512", "base.vmdk"],
    );
    let error = Image::open(&top, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("changed after"), "{error}");

    fs::remove_file(folder.path().join("base.vmdk")).unwrap();
    let error = Image::open(&top, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("base.vmdk"), "{error}");
}

#[test]
fn a_parent_named_by_another_machines_path_is_found_beside_its_child() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let path = folder.path().join("middle.vmdk");
    let expected = qemu_content(folder.path(), "middle.vmdk");
    let bytes = fs::read(&path).unwrap();
    let old = b"parentFileNameHint=\"base.vmdk\"\n";
    let at = bytes.windows(old.len()).position(|w| w == old).unwrap();
    for hint in [r"C:\VMs\x\base.vmdk", "/vmfs/volumes/a/base.vmdk"] {
        // The descriptor's padding gives way.
        let new = format!("parentFileNameHint=\"{hint}\"\n").into_bytes();
        let mut text = bytes[512..21 * 512].to_vec();
        text.splice(at - 512..at - 512 + old.len(), new);
        text.truncate(20 * 512);
        let changed = [&bytes[..512], &text, &bytes[21 * 512..]].concat();
        fs::write(&path, changed).unwrap();
        assert_content(&path, &expected, hint);
    }
}

#[test]
fn a_chain_that_names_itself_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loop.vmdk");
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=1\ncreateType=\"custom\"\n\
                parentFileNameHint=\"loop.vmdk\"\nRW 8 ZERO\n";
    fs::write(&path, text).unwrap();
    let error = Image::open(&path, None, &SameFolder).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}
