//! Whole stacks: volume groups on arrays on disks, partitions, encrypted volumes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Memory, Overlay, StorageDisk};
use rehost_luks::Secret;
use rehost_volume::stack::{Kind, Stack, Use};

#[allow(dead_code)]
#[path = "../lvm/built.rs"]
mod lvm;
#[allow(dead_code)]
#[path = "../md/built.rs"]
mod md;

const MIB: usize = 1 << 20;

fn named(images: Vec<Vec<u8>>) -> Vec<(String, Arc<dyn Disk>)> {
    ('a'..)
        .zip(images)
        .map(|(letter, bytes)| {
            let disk: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(Memory::new("x", bytes))));
            (format!("sd{letter}"), disk)
        })
        .collect()
}

/// `bytes` in the only partition of a disk with a DOS table.
fn partitioned(bytes: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; MIB + bytes.len()];
    let count = u32::try_from(bytes.len() / 512).unwrap();
    disk[440..444].copy_from_slice(&0x1234_abcdu32.to_le_bytes());
    disk[450] = 0xfd;
    disk[454..458].copy_from_slice(&2048u32.to_le_bytes());
    disk[458..462].copy_from_slice(&count.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[MIB..].copy_from_slice(bytes);
    disk
}

/// Two disks whose partitions mirror a physical volume.
fn mirrored(version: &'static str) -> Vec<Vec<u8>> {
    let volume = lvm::volume("root", ", \"VISIBLE\"", &[&lvm::linear(0, 3, "pv0", 2)]);
    let data = lvm::physical(0, &lvm::group(1, 7, &volume), 512);
    let made = md::Made {
        version,
        level: 1,
        layout: 0,
        members: 2,
    };
    (0..2)
        .map(|slot| partitioned(&md::member(made, slot, &data, md::HEALTHY)))
        .collect()
}

#[test]
fn a_volume_group_on_a_mirror_on_partitions_is_found() {
    for version in ["0.90", "1.0", "1.2"] {
        let stack = Stack::find(&named(mirrored(version)), &[]).unwrap();
        let kinds: Vec<Kind> = stack.nodes.iter().map(|node| node.kind).collect();
        let expected = [
            Kind::Disk,
            Kind::Part,
            Kind::Disk,
            Kind::Part,
            Kind::Raid,
            Kind::Lvm,
        ];
        assert_eq!(kinds, expected, "{version}");
        assert_eq!(stack.nodes[0].usage, Some(Use::Mbr));
        assert_eq!(stack.nodes[1].usage, Some(Use::Raid));
        assert_eq!(stack.nodes[1].uuid.as_deref(), Some("1234abcd-01"));
        assert_eq!(stack.nodes[4].parents, [1, 3]);
        assert_eq!(stack.nodes[4].form.as_deref(), Some("raid1"));
        let (root, disk) = stack.open().next().unwrap();
        assert_eq!((root.name.as_str(), root.size), ("vg/root", 3 << 19));
        assert_eq!(lvm::origin(&**disk, 64), (0, 2 * (1 << 20) + 64));
        let json = serde_json::to_value(&stack).unwrap();
        assert_eq!(json["nodes"][4]["usage"], "LVM2_member");
        assert_eq!(json["nodes"][5]["kind"], "lvm");
    }
}

fn over(images: Vec<Vec<u8>>) -> Vec<(String, Arc<dyn DiskMut>)> {
    let write = |(name, disk)| (name, Arc::new(Overlay::in_memory(disk)) as Arc<dyn DiskMut>);
    named(images).into_iter().map(write).collect()
}

fn readable(disks: &[(String, Arc<dyn DiskMut>)]) -> Vec<(String, Arc<dyn Disk>)> {
    let read = |(name, disk): &(String, Arc<dyn DiskMut>)| {
        (name.clone(), Arc::clone(disk) as Arc<dyn Disk>)
    };
    disks.iter().map(read).collect()
}

#[test]
fn what_is_written_to_a_volume_is_on_both_halves_of_its_mirror() {
    for version in ["0.90", "1.0", "1.2"] {
        let disks = over(mirrored(version));
        let stack = Stack::find_mut(&disks, &[]).unwrap();
        let writer = stack.writer("vg/root").unwrap();
        writer.write_at(b"written through", 70_000).unwrap();
        let disks = readable(&disks);
        for half in 0..2 {
            let found = Stack::find(&disks[half..=half], &[]).unwrap();
            let (_, root) = found.named("vg/root").unwrap();
            let mut bytes = [0; 15];
            let disk = root.disk.as_ref().unwrap();
            disk.read_at(&mut bytes, 70_000).unwrap();
            assert_eq!(&bytes, b"written through", "{version} half {half}");
        }
        let both = Stack::find(&disks, &[]).unwrap();
        let names = |stack: &Stack| -> Vec<String> {
            stack.nodes.iter().map(|node| node.name.clone()).collect()
        };
        assert_eq!(names(&both), names(&stack));
        assert!(both.nodes.iter().all(|node| node.damage.is_empty()));
    }
}

#[test]
fn nodes_that_cannot_be_written_say_why() {
    let all = mirrored("1.2");
    let stack = Stack::find_mut(&over(all.clone()), &[]).unwrap();
    for (name, said) in [
        ("sda", "sda is used as dos"),
        ("sda:1", "1 is used as linux_raid_member"),
        (
            "md-30313233-3435-3637-3839-616263646566",
            "used as LVM2_member",
        ),
        ("1", "the name of several volumes; say which: sda:1, sdb:1"),
        (
            "vg/tmp",
            "there is no volume vg/tmp; there are: sda, 1, sdb",
        ),
    ] {
        let error = stack.writer(name).unwrap_err();
        assert_eq!(error.kind(), rehost_block::Kind::Usage, "{name}");
        assert!(error.to_string().contains(said), "{error}");
    }
    let half = Stack::find_mut(&over(all[..1].to_vec()), &[]).unwrap();
    let error = half.writer("vg/root").unwrap_err();
    assert_eq!(error.kind(), rehost_block::Kind::Unsupported);
    assert!(error.to_string().contains("slot 1 is missing"), "{error}");
    let reading = Stack::find(&named(all), &[]).unwrap();
    let error = reading.writer("vg/root").unwrap_err();
    assert!(error.to_string().contains("for reading only"), "{error}");
}

#[test]
fn half_a_mirror_says_what_is_missing() {
    let disks = mirrored("1.2").split_off(1);
    let stack = Stack::find(&named(disks), &[]).unwrap();
    let array = &stack.nodes[2];
    assert_eq!(array.damage, ["the member in slot 0 is missing"]);
    assert_eq!(stack.open().count(), 1);
    assert_eq!(stack.children(2).next().unwrap().1.name, "vg/root");
}

#[test]
fn encrypted_volumes_are_opened_with_the_right_secret_and_named_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("luks");
    std::fs::write(&path, vec![0; 20 * MIB]).unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "right").unwrap();
    let made = Command::new("cryptsetup")
        .args([
            "luksFormat",
            "-q",
            "--type",
            "luks1",
            "--pbkdf-force-iterations",
            "1000",
        ])
        .args([&path, &key])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: needs cryptsetup");
        return;
    }
    let image = partitioned(&std::fs::read(&path).unwrap());
    let wrong = Secret::passphrase("wrong");
    for (secrets, said) in [(vec![], "no key was given"), (vec![wrong], "")] {
        let stack = Stack::find(&named(vec![image.clone()]), &secrets).unwrap();
        assert_eq!(stack.nodes.len(), 2);
        assert_eq!(stack.nodes[1].usage, Some(Use::Luks));
        assert_eq!(stack.nodes[1].damage.len(), 1);
        assert!(stack.nodes[1].damage[0].contains(said));
        assert_eq!(stack.open().count(), 0);
    }
    let secrets = [Secret::passphrase("wrong"), Secret::passphrase("right")];
    let stack = Stack::find(&named(vec![image.clone()]), &secrets).unwrap();
    let (plain, disk) = stack.open().next().unwrap();
    assert_eq!((plain.kind, disk.size()), (Kind::Crypt, 18 << 20));
    assert_eq!(plain.uuid, stack.nodes[1].usage_uuid);
    assert_eq!(stack.named(plain.uuid.as_deref().unwrap()).unwrap().0, 2);
    let disks = over(vec![image]);
    let stack = Stack::find_mut(&disks, &secrets).unwrap();
    let writer = stack.writer(&plain.name).unwrap();
    writer.write_at(b"secret", 1 << 20).unwrap();
    let again = Stack::find(&readable(&disks), &secrets).unwrap();
    let mut bytes = [0; 6];
    let (_, disk) = again.open().next().unwrap();
    disk.read_at(&mut bytes, 1 << 20).unwrap();
    assert_eq!(&bytes, b"secret");
}
