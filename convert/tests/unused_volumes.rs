//! `convert --skip-unused` and `--zero-swap` on logical volumes: what filesystems and swap in a group do not
//! use is left out wherever it lies, and nothing else is.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

#[allow(dead_code)]
#[path = "../../formats/volume/tests/lvm/built.rs"]
mod lvm;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use common::stacked::{MIB, ext4, noise, partitioned, tree_before, write};
use common::{have, judge, run};

const UUID: &str = "11111111-2222-4333-8444-555555555555";
const EXTENT: usize = MIB / 2;
/// Extents of `vg/root`, in two pieces that are not in order on the disk, and of `vg/swap`.
const ROOT: [(u32, u32); 2] = [(20, 16), (2, 16)];
const SWAP: (u32, u32) = (40, 8);

/// A disk with a group in its second partition: noise wherever nothing was written.
fn disk(scratch: &std::path::Path, more: &str) -> (Vec<u8>, Vec<u8>) {
    let mut filesystem = ext4(scratch, &tree_before(scratch), UUID, "root", 16 << 10);
    // What the filesystem does not use holds noise too.
    let fs_path = scratch.join("noisy");
    fs::write(&fs_path, noise(3, filesystem.len())).unwrap();
    judge(
        Command::new("mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "1024",
                "-E",
                "nodiscard",
                "-U",
                UUID,
                "-d",
            ])
            .arg(tree_before(scratch))
            .arg(&fs_path)
            .arg("16384"),
    );
    filesystem.clone_from(&fs::read(&fs_path).unwrap());
    let swap_path = scratch.join("swap");
    fs::write(&swap_path, noise(4, SWAP.1 as usize * EXTENT)).unwrap();
    judge(
        Command::new("mkswap")
            .args(["-q", "-L", "pages"])
            .arg(&swap_path),
    );
    let swap = fs::read(&swap_path).unwrap();
    let segments = [
        lvm::linear(0, ROOT[0].1, "pv0", ROOT[0].0),
        lvm::linear(ROOT[0].1, ROOT[1].1, "pv0", ROOT[1].0),
    ];
    let logical = [
        lvm::volume("root", ", \"VISIBLE\"", &[&segments[0], &segments[1]]),
        lvm::volume(
            "swap",
            ", \"VISIBLE\"",
            &[&lvm::linear(0, SWAP.1, "pv0", SWAP.0)],
        ),
        more.to_owned(),
    ];
    let text = lvm::group(1, 7, &logical.concat()).replace("pe_count = 14", "pe_count = 60");
    let mut volume = lvm::physical(0, &text, 512);
    volume.truncate(MIB);
    volume.extend(noise(5, 60 * EXTENT));
    let mut left = &filesystem[..];
    for (first, count) in ROOT {
        let (part, rest) = left.split_at(count as usize * EXTENT);
        volume[MIB + first as usize * EXTENT..][..part.len()].copy_from_slice(part);
        left = rest;
    }
    volume[MIB + SWAP.0 as usize * EXTENT..][..swap.len()].copy_from_slice(&swap);
    let other = noise(6, MIB);
    (partitioned(&[(0x83, &other), (0x8e, &volume)]), filesystem)
}

/// Byte offset of an extent on the disk.
fn at(extent: u32) -> usize {
    3 * MIB + extent as usize * EXTENT
}

fn root_of(disk: &[u8]) -> Vec<u8> {
    let parts = ROOT.map(|(first, count)| &disk[at(first)..][..count as usize * EXTENT]);
    parts.concat()
}

/// Converts `source` without what nobody uses: its image and the new one, and what was said of them.
fn skipped(scratch: &std::path::Path, source: &[u8]) -> ([String; 2], serde_json::Value) {
    let image = write(scratch, "source", source);
    let target = scratch.join("target.raw").to_str().unwrap().to_owned();
    let said = run([
        "convert",
        "--json",
        "--skip-unused",
        "--zero-swap",
        &image,
        &target,
    ])
    .exits(0)
    .json();
    ([image, target], said)
}

#[test]
fn what_a_filesystem_and_swap_in_a_group_do_not_use_is_left_out() {
    if !["mke2fs", "e2fsck", "mkswap", "blkid"]
        .into_iter()
        .all(have)
    {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let (source, filesystem) = disk(scratch, "");
    let ([image, target], said) = skipped(scratch, &source);
    let left = |name: &str| {
        let all = said["unused"].as_array().unwrap();
        let found = all.iter().find(|left| left["volume"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name}: {said}"));
        assert!(found["kept_because"].is_null(), "{said}");
        usize::try_from(found["skipped_bytes"].as_u64().unwrap()).unwrap()
    };
    assert!(left("vg/root") > 12 * MIB, "{said}");
    assert_eq!(left("vg/swap"), SWAP.1 as usize * EXTENT - 4096);

    let written = fs::read(&target).unwrap();
    assert_eq!(written.len(), source.len());
    // Everything that is not in the two volumes is as it was: other partitions, the group's own metadata,
    // extents of no volume.
    let mut expected = source.clone();
    for (first, count) in ROOT.into_iter().chain([SWAP]) {
        let range = at(first)..at(first + count);
        expected[range.clone()].copy_from_slice(&written[range]);
    }
    assert!(expected == written);
    let root = root_of(&written);
    let path = write(scratch, "root.written", &root);
    judge(Command::new("e2fsck").args(["-f", "-n", &path]));
    // Each block is as it was, or free and zero: by what dumpe2fs says is free.
    let free = free_blocks(&path);
    for (nth, (new, old)) in root.chunks(1024).zip(filesystem.chunks(1024)).enumerate() {
        let is_zero = new.iter().all(|byte| *byte == 0);
        assert!(new == old || (is_zero && free[nth]), "block {nth}");
    }
    let kept = (0..free.len()).filter(|nth| free[*nth] && root[nth * 1024..][..1024] != [0; 1024]);
    assert_eq!(kept.count(), 0, "free blocks that were kept");
    let swap = &written[at(SWAP.0)..at(SWAP.0 + SWAP.1)];
    assert!(swap[..4096] == source[at(SWAP.0)..][..4096]);
    assert!(swap[4096..].iter().all(|byte| *byte == 0));
    let swap = write(scratch, "swap.written", swap);
    assert!(judge(Command::new("blkid").args(["-p", &swap])).contains("pages"));
    for path in ["/keep", "/dir/other"] {
        let [a, b] = [&image, &target].map(|disk| {
            run(["cat", disk, path, "--volume", "vg/root"])
                .exits(0)
                .stdout
        });
        assert!(a == b);
    }
    // The room was not taken, either.
    let (took, had) = (
        fs::metadata(&target).unwrap().blocks(),
        source.len() as u64 / 512,
    );
    assert!(took * 512 + (14 << 20) < had * 512, "{took} of {had}");
}

/// Which blocks of an ext4 filesystem dumpe2fs lists as free.
fn free_blocks(path: &str) -> Vec<bool> {
    let said = judge(Command::new("dumpe2fs").arg(path));
    let mut free = vec![false; 16384];
    for line in said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Free blocks: "))
        .filter(|line| line.contains('-') || line.contains(','))
    {
        for part in line.split(", ").filter(|part| !part.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            free[from..=to].fill(true);
        }
    }
    assert!(free.iter().any(|free| *free));
    free
}

#[test]
fn in_a_group_with_a_snapshot_nothing_is_left_out() {
    if !["mke2fs", "mkswap"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let cow = lvm::volume("cow", ", \"VISIBLE\"", &[&lvm::linear(0, 4, "pv0", 50)]);
    let snapshot = lvm::volume(
        "snapshot0",
        ", \"VISIBLE\"",
        &[
            "start_extent = 0\nextent_count = 32\ntype = \"snapshot\"\nchunk_size = 8\norigin = \"root\"\ncow_store = \"cow\"",
        ],
    );
    let (source, _) = disk(scratch, &[cow, snapshot].concat());
    let ([_, target], said) = skipped(scratch, &source);
    let all = said["unused"].as_array().unwrap();
    assert!(!all.is_empty(), "{said}");
    for left in all {
        assert_eq!(left["skipped_bytes"], 0, "{said}");
        let why = left["kept_because"].as_str().unwrap();
        assert!(why.contains("snapshot"), "{why}");
    }
    assert!(fs::read(&target).unwrap() == source);
    let file = fs::File::open(&target).unwrap();
    let mut first = [0; 512];
    file.read_exact_at(&mut first, 0).unwrap();
    assert!(first[510..] == [0x55, 0xaa]);
}
