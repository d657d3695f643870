//! Snapshots and linked clones: the parent is found, and it is the right one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rehost_block::{File, Kind, Memory, SameFolder};
use rehost_image::{Format, Image, OneFile, Payload, VmdkKind, create};

use crate::reading::make;
use crate::support::second::assert_second;
use crate::support::writing::Beside;
use crate::support::{assert_content, have, judge, noise, qemu_content, run};
use crate::writing::{spec, write};

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

/// Writes `child` over `parent` in `folder`: `pieces` are offset and bytes, `zeroes` are ranges.
fn write_child(
    folder: &Path,
    (child, parent): (&str, &str),
    kind: VmdkKind,
    pieces: &[(u64, &[u8])],
    zeroes: &[(u64, u64)],
) {
    let under = Image::open(folder.join(parent), None, &SameFolder).unwrap();
    let mut spec = spec(kind, under.size(), child);
    spec.backing = under.as_backing(parent.into());
    let storage = Arc::new(File::create_new(folder.join(child)).unwrap());
    let target = create(&spec, storage, &Beside(folder.to_owned())).unwrap();
    for (offset, bytes) in pieces {
        target.put(*offset, Payload::Plain(bytes)).unwrap();
    }
    for (offset, len) in zeroes {
        target.put(*offset, Payload::Zero(*len)).unwrap();
    }
    target.publish().unwrap();
}

#[test]
fn a_child_written_here_is_a_child_for_others() {
    if !have(&["qemu-img"]) {
        return;
    }
    let size = (3 << 20) + 8192;
    for kind in [VmdkKind::MonolithicSparse, VmdkKind::TwoGbMaxExtentSparse] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut disk = noise(5, size);
        write(
            &folder.join("base.vmdk"),
            VmdkKind::MonolithicSparse,
            &disk,
            1 << 20,
        );
        let piece = noise(6, 128 << 10);
        let last = (3 << 20) as u64;
        write_child(
            folder,
            ("child.vmdk", "base.vmdk"),
            kind,
            &[(64 << 10, &piece)],
            &[(1 << 20, 192 << 10), (last, 65_536)],
        );
        disk[64 << 10..192 << 10].copy_from_slice(&piece);
        disk[1 << 20..(1 << 20) + (192 << 10)].fill(0);
        disk[3 << 20..].fill(0);
        judge(folder, "child.vmdk", &disk);
        let (child, base) = (folder.join("child.vmdk"), folder.join("base.vmdk"));
        // libvmdk gives the parent where a zeroed grain hides it.
        assert_second("vmdk", &child, &[&base], &["dissect"], &disk);

        // And over that one, where nothing is zeroed: a header of version 1.
        write_child(
            folder,
            ("top.vmdk", "child.vmdk"),
            kind,
            &[(0, &piece)],
            &[],
        );
        disk[..128 << 10].copy_from_slice(&piece);
        judge(folder, "top.vmdk", &disk);
        let (first, second) = match kind {
            VmdkKind::MonolithicSparse => ("child.vmdk", "top.vmdk"),
            _ => ("child-s001.vmdk", "top-s001.vmdk"),
        };
        assert_eq!(fs::read(folder.join(first)).unwrap()[4], 2);
        assert_eq!(fs::read(folder.join(second)).unwrap()[4], 1);
    }
}

#[test]
fn only_sparse_kinds_take_a_parent_and_only_a_vmdk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vmdk");
    write(&path, VmdkKind::MonolithicSparse, &noise(5, SIZE), 1 << 20);
    let base = Image::open(&path, None, &SameFolder).unwrap();
    let raw = folder.path().join("base.raw");
    fs::write(&raw, noise(5, SIZE)).unwrap();
    let raw = Image::open(&raw, Some(Format::Raw), &SameFolder).unwrap();
    let refused = |kind, parent: &Image, name: &str| {
        let mut spec = spec(kind, SIZE as u64, "c.vmdk");
        spec.backing = parent.as_backing(name.into());
        let memory = Arc::new(Memory::new("c.vmdk", Vec::new()));
        let error = create(&spec, memory, &OneFile).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        error.to_string()
    };
    for kind in [
        VmdkKind::MonolithicFlat,
        VmdkKind::TwoGbMaxExtentFlat,
        VmdkKind::StreamOptimized,
    ] {
        assert!(refused(kind, &base, "base.vmdk").contains(kind.as_str()));
    }
    let sparse = VmdkKind::MonolithicSparse;
    assert!(refused(sparse, &raw, "base.raw").contains("must be a VMDK"));
    assert!(refused(sparse, &base, "a\"b").contains("quotes"));
}
