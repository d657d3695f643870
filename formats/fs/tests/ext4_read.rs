//! Trees read from images that mke2fs made, against the folder they were made from.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::os::unix::fs::{FileExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use rehost_fs::path::{LastLink, find};
use rehost_fs::{Ext4, FileSystem};
use support::*;

/// A folder with what a reader can get wrong.
fn sample(root: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    write("empty", b"");
    for len in [
        1, 59, 60, 61, 100, 155, 156, 157, 1023, 1024, 4095, 4096, 4097, 70_000,
    ] {
        write(&format!("file-{len}"), &noise(len as u64, len));
    }
    write("large", &noise(7, 3 << 20));
    std::fs::create_dir(root.join("deep")).unwrap();
    std::fs::create_dir_all(root.join("deep/a/b/c/d/e")).unwrap();
    std::fs::write(root.join("deep/a/b/c/d/e/leaf"), b"leaf").unwrap();
    std::fs::create_dir(root.join("many")).unwrap();
    for nth in 0..500 {
        let name = format!("many/a rather long name so that blocks fill quickly {nth:05}");
        std::fs::write(root.join(name), nth.to_string()).unwrap();
    }
    write("ünïcödé \u{1f980}", b"crab");
    write(&"n".repeat(255), b"longest name");
    std::fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o4755)).unwrap();
    for (len, name) in [
        (1, "l1"),
        (59, "l59"),
        (60, "l60"),
        (61, "l61"),
        (900, "l900"),
    ] {
        symlink("t".repeat(len), root.join(name)).unwrap();
    }
    symlink("../deep/a", root.join("deep/link")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for at in [0, 100 << 10, 20 << 20, (40 << 20) - 5] {
        sparse.write_all_at(b"here!", at).unwrap();
    }
}

const KINDS: &[(&str, &[&str])] = &[
    ("ext4 as Debian 12 makes it", &["-t", "ext4", "-b", "4096"]),
    (
        "ext4 with newer defaults",
        &[
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "metadata_csum_seed,orphan_file",
        ],
    ),
    ("ext4 of 1 KiB blocks", &["-t", "ext4", "-b", "1024"]),
    (
        "ext4 with inline data",
        &["-t", "ext4", "-b", "4096", "-O", "inline_data"],
    ),
    (
        "ext4 of 1 KiB with inline data",
        &["-t", "ext4", "-b", "1024", "-O", "inline_data,^64bit"],
    ),
    (
        "ext4 with bigalloc",
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc"],
    ),
    (
        "ext4 with meta_bg",
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"],
    ),
    (
        "ext4 with uninit_bg",
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg"],
    ),
    (
        "ext4 without checksums",
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit"],
    ),
    (
        "ext4 of small inodes",
        &["-t", "ext4", "-b", "4096", "-I", "128"],
    ),
    (
        "ext4 with large_dir and ea_inode",
        &["-t", "ext4", "-b", "1024", "-O", "large_dir,ea_inode"],
    ),
    ("ext4 of 64 KiB blocks", &["-t", "ext4", "-b", "65536"]),
    ("ext3", &["-t", "ext3", "-b", "4096"]),
    ("ext3 of 1 KiB blocks", &["-t", "ext3", "-b", "1024"]),
    ("ext2", &["-t", "ext2", "-b", "4096"]),
    ("ext2 of 1 KiB blocks", &["-t", "ext2", "-b", "1024"]),
    (
        "ext2 without dir_index and filetype",
        &["-t", "ext2", "-b", "1024", "-O", "^dir_index,^filetype"],
    ),
    ("ext2 revision 0", &["-t", "ext2", "-b", "1024", "-r", "0"]),
];

#[test]
fn trees_are_those_that_mke2fs_was_given() {
    if !has(&["mke2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    sample(&source);
    let mut expected = host_tree(&source);
    let image = folder.path().join("fs.raw");
    expected.insert(
        b"lost+found".to_vec(),
        Seen {
            kind: 'd',
            mode: 0o700,
            size: None,
            content: String::new(),
        },
    );
    for (what, args) in KINDS {
        let _ = std::fs::remove_file(&image);
        mke2fs(&image, "80M", args, Some(&source));
        let fs = Ext4::open(file_disk(&image)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let ours = tree(&fs).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_same_tree(&ours, &expected, what);
        // Lookup takes other ways than listing: index, cache, linear.
        for name in ours.keys() {
            let found = find(&fs, name, LastLink::Keep).unwrap();
            assert!(found.is_some(), "{what}: {}", String::from_utf8_lossy(name));
        }
        assert!(
            find(&fs, b"many/no such name", LastLink::Keep)
                .unwrap()
                .is_none()
        );
    }
}

#[test]
fn stored_ranges_hold_the_content() {
    if !has(&["mke2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    sample(&source);
    let image = folder.path().join("fs.raw");
    mke2fs(
        &image,
        "80M",
        &["-t", "ext4", "-O", "inline_data"],
        Some(&source),
    );
    let disk = file_disk(&image);
    let fs = Ext4::open(Arc::clone(&disk)).unwrap();
    for name in ["empty", "file-60", "file-4097", "large", "sparse"] {
        let inode = find(&fs, name.as_bytes(), LastLink::Keep).unwrap().unwrap();
        let content = std::fs::read(source.join(name)).unwrap();
        let mut at = 0;
        for part in fs.stored(inode).unwrap() {
            assert_eq!(part.file.start, at);
            at = part.file.end;
            let range = part.file.start as usize..part.file.end as usize;
            if let Some(place) = part.disk {
                let mut bytes = vec![0; range.len()];
                disk.read_at(&mut bytes, place).unwrap();
                assert!(bytes == content[range], "{name}");
            }
        }
        assert_eq!(at, content.len() as u64, "{name}");
    }
}

#[test]
fn preallocated_blocks_read_as_zeroes() {
    if !has(&["mke2fs", "debugfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("fs.raw");
    let data = folder.path().join("data");
    std::fs::write(&data, vec![0xaa; 4096 * 8]).unwrap();
    mke2fs(&image, "16M", &["-t", "ext4", "-b", "4096"], None);
    // Fill the free blocks with something that must not show through.
    debugfs_script(
        &image,
        &format!(
            "write {0} filler\nrm filler\nwrite {0} f\nfallocate f 8 20\nsif f size 86016\n",
            data.display()
        ),
    );
    let fs = Ext4::open(file_disk(&image)).unwrap();
    let inode = fs.lookup(fs.root(), b"f").unwrap().unwrap();
    let mut content = vec![1; 86_016];
    assert_eq!(fs.read_at(inode, &mut content, 0).unwrap(), 86_016);
    assert!(content[..32_768].iter().all(|byte| *byte == 0xaa));
    assert!(content[32_768..].iter().all(|byte| *byte == 0));
    assert!(
        fs.stored(inode)
            .unwrap()
            .iter()
            .any(|part| part.disk.is_none())
    );
}

#[test]
fn attributes_in_inode_block_and_inodes_of_their_own() {
    if !has(&["mke2fs", "debugfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("fs.raw");
    let value = folder.path().join("value");
    let content = noise(3, 3000);
    std::fs::write(&value, &content).unwrap();
    mke2fs(
        &image,
        "16M",
        &["-t", "ext4", "-b", "1024", "-O", "ea_inode"],
        None,
    );
    debugfs_script(
        &image,
        &format!(
            "write {0} f\nea_set f security.selinux system_u:object_r:boot_t:s0\n\
             ea_set f user.large -f {0}\nea_set f user.medium {1}\nea_set f trusted.empty \"\"\n",
            value.display(),
            "m".repeat(600),
        ),
    );
    let fs = Ext4::open(file_disk(&image)).unwrap();
    let inode = fs.lookup(fs.root(), b"f").unwrap().unwrap();
    let found = fs.xattrs(inode).unwrap();
    let get = |name: &str| {
        let one = found.iter().find(|(known, _)| known == name.as_bytes());
        one.map(|(_, value)| value.clone())
    };
    assert_eq!(
        get("security.selinux").unwrap(),
        b"system_u:object_r:boot_t:s0"
    );
    // debugfs may cut what it reads from a file: what it stored is what counts.
    let out = folder.path().join("out");
    debugfs(&image, &format!("ea_get -f {} f user.large", out.display()));
    let large = get("user.large").unwrap();
    assert!(large.len() > 512, "{}", large.len());
    assert!(large == std::fs::read(out).unwrap());
    assert!(content.starts_with(&large));
    assert_eq!(get("user.medium").unwrap(), "m".repeat(600).as_bytes());
}

#[test]
fn identity_is_what_blkid_prints() {
    if !has(&["mke2fs", "blkid"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("fs.raw");
    for (what, args) in KINDS {
        let mut args = args.to_vec();
        args.extend(["-L", "some label"]);
        mke2fs(&image, "32M", &args, None);
        let fs = Ext4::open(file_disk(&image)).unwrap();
        let about = fs.identity();
        let get = |tag: &str| {
            let out = run(
                "blkid",
                &["-p", "-o", "value", "-s", tag, image.to_str().unwrap()],
            );
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        assert_eq!(about.kind, get("TYPE"), "{what}");
        assert_eq!(about.uuid.unwrap(), get("UUID"), "{what}");
        assert_eq!(about.label.unwrap(), get("LABEL"), "{what}");
        assert_eq!(about.block_size.to_string(), get("BLOCK_SIZE"), "{what}");
        assert!(!about.replayed);
    }
}
