//! Unit tests of the checksum tree.

use rehost_block::Memory;

use super::*;
use crate::copy::CopyOptions;
use rehost_block::StorageDisk;
use std::sync::Arc;

fn disk(bytes: Vec<u8>) -> StorageDisk {
    StorageDisk::new(Arc::new(Memory::new("disk", bytes)))
}

fn tree(bytes: Vec<u8>, flat: Flat) -> Tree {
    tree_of(
        &disk(bytes),
        Algorithm::Sha256,
        flat,
        &CopyOptions::default(),
    )
    .unwrap()
}

#[test]
fn the_tree_is_what_the_documentation_says() {
    let mut bytes = vec![0; (3 << 20) + 777];
    bytes[5] = 1;
    bytes[(2 << 20) + 9] = 2;
    let mut root = Vec::from(*b"rehost checksum tree 1\n");
    root.extend((bytes.len() as u64).to_le_bytes());
    root.extend((1u64 << 20).to_le_bytes());
    for leaf in bytes.chunks(1 << 20) {
        root.extend(Sha256::digest(leaf));
    }
    let flat: Digest = Sha256::digest(&bytes).into();
    let tree = tree(bytes, Flat::Wanted);
    assert_eq!(tree.root, <Digest>::from(Sha256::digest(&root)));
    assert_eq!(tree.flat, Some(flat));
    let numbers: Vec<u64> = tree.leaves.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 2]);
}

#[test]
fn differences_are_found_and_joined() {
    let mut bytes = vec![7; 6 << 20];
    let before = tree(bytes.clone(), Flat::Unwanted);
    assert!(before.differences(&before).is_empty());
    bytes[1 << 20] = 8;
    bytes[3 << 20..5 << 20].fill(0);
    let after = tree(bytes.clone(), Flat::Unwanted);
    let expected = [(1 << 20, 1 << 20), (3 << 20, 2 << 20)];
    assert_eq!(before.differences(&after), expected);
    assert_eq!(after.differences(&before), expected);
    // Longer by zeroes only, which no leaf shows.
    bytes.resize(8 << 20, 0);
    let longer = tree(bytes, Flat::Unwanted);
    assert_eq!(after.differences(&longer), [(6 << 20, 2 << 20)]);
    assert_ne!(after.root, longer.root);
}

#[test]
fn zeroes_at_the_end_are_no_difference_to_a_verification() {
    let bytes = vec![7; (2 << 20) + 100];
    let expected = tree(bytes.clone(), Flat::Unwanted);
    let differences = |len: usize, last: u8| {
        let mut other = bytes.clone();
        other.resize(len, 0);
        *other.last_mut().unwrap() ^= last;
        let disk: Arc<dyn Disk> = Arc::new(disk(other));
        verify(&disk, &expected, &CopyOptions::default())
            .unwrap()
            .differences
    };
    assert!(differences(bytes.len(), 0).is_empty());
    assert!(differences(4 << 20, 0).is_empty());
    assert_eq!(
        differences(4 << 20, 1),
        [((2 << 20) + 100, (2 << 20) - 100)]
    );
    assert_eq!(differences((2 << 20) + 99, 0), [(2 << 20, 100)]);
}

#[test]
fn a_sidecar_gives_the_tree_back_and_a_changed_one_is_refused() {
    let mut bytes = vec![0; 5 << 20];
    bytes[1 << 20..3 << 20].fill(3);
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let options = CopyOptions::default();
        let tree = tree_of(&disk(bytes.clone()), algorithm, Flat::Wanted, &options).unwrap();
        let sidecar = Sidecar::from(&tree);
        assert_eq!(sidecar.extents.len(), 1);
        assert_eq!(sidecar.tree().unwrap(), tree);
        let changes: [fn(&mut Sidecar); 6] = [
            |file| file.size += 1,
            |file| file.rehost_checksums = 2,
            |file| file.extents[0].leaves[1].replace_range(0..1, "x"),
            |file| file.extents[0].leaves.truncate(1),
            |file| file.extents[0].offset += 1,
            |file| file.extents[0].offset = 4 << 20,
        ];
        for change in changes {
            let mut changed = sidecar.clone();
            change(&mut changed);
            assert!(changed.tree().is_err());
        }
    }
}
