//! Volumes on volumes and the files on them, as a user reaches them: images made by mke2fs, qemu-img
//! and sfdisk, physical volumes and members written by hand (their own tests have LVM and mdadm judge
//! those), judged by e2fsck, debugfs and du.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

#[allow(dead_code)]
#[path = "../../formats/volume/tests/lvm/built.rs"]
mod lvm;
#[allow(dead_code)]
#[path = "../../formats/volume/tests/md/built.rs"]
mod md;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::stacked::{MIB, ext4, partitioned, qemu_img, write};
use common::{Ran, have, judge, run};
use serde_json::Value;

const ROOT: &str = "11111111-2222-4333-8444-555555555555";
const BOOT: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";

/// The files of a guest whose fstab names the root by `root`.
fn root_tree(scratch: &Path, fstab: &str) -> PathBuf {
    let tree = scratch.join("root");
    for folder in ["etc", "sbin", "boot", "home/me"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let release = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Test OS\"\n";
    fs::write(tree.join("etc/os-release"), release).unwrap();
    fs::write(tree.join("etc/fstab"), fstab).unwrap();
    fs::write(tree.join("etc/hostname"), "stacked\n").unwrap();
    fs::write(tree.join("sbin/init"), "x").unwrap();
    fs::write(tree.join("home/me/notes"), vec![b'n'; 5000]).unwrap();
    std::os::unix::fs::symlink("notes", tree.join("home/me/link")).unwrap();
    tree
}

/// A machine of two disks: `/boot` on a partition; a volume group over another partition and the
/// second disk, with the root, of which each disk has a half, and swap.
fn two_disks(scratch: &Path) -> (String, String) {
    let fstab = format!(
        "/dev/mapper/vg-root / ext4 defaults 0 1\nUUID={BOOT} /boot ext4 defaults 0 2\n\
         /dev/vg/swap none swap sw 0 0\n"
    );
    let root = ext4(scratch, &root_tree(scratch, &fstab), ROOT, "root", 10 << 10);
    let boot = scratch.join("boot");
    fs::create_dir_all(boot.join("grub")).unwrap();
    fs::write(boot.join("grub/grub.cfg"), "set default=0\n").unwrap();
    let boot = ext4(scratch, &boot, BOOT, "boot", 2 << 10);
    let segments = [lvm::linear(0, 10, "pv0", 1), lvm::linear(10, 10, "pv1", 0)];
    let logical = [
        lvm::volume("root", ", \"VISIBLE\"", &[&segments[0], &segments[1]]),
        lvm::volume("swap", ", \"VISIBLE\"", &[&lvm::linear(0, 2, "pv1", 12)]),
    ];
    let text = lvm::group(2, 7, &logical.concat());
    let (mut first, mut second) = (lvm::physical(0, &text, 512), lvm::physical(1, &text, 512));
    let extent = |nth: usize| MIB + nth * (MIB / 2);
    let half = root.len() / 2;
    lvm::put(&mut first, extent(1), &root[..half]);
    lvm::put(&mut second, extent(0), &root[half..]);
    lvm::put(&mut second, extent(12), &vec![0; MIB]);
    lvm::put(&mut second, extent(12) + 4086, b"SWAPSPACE2");
    let first = partitioned(&[(0x83, &boot), (0x8e, &first)]);
    let raw = write(scratch, "first.raw", &first);
    let image = scratch.join("first.qcow2").to_str().unwrap().to_owned();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &image]);
    (image, write(scratch, "second.raw", &second))
}

/// The row of `lsblk --json` with this name.
#[track_caller]
fn row<'a>(listed: &'a Value, name: &str) -> &'a Value {
    let rows = listed["volumes"].as_array().unwrap();
    let found = rows.iter().find(|row| row["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {listed:#}"))
}

fn on<'a>(first: &'a str, second: &'a str, rest: &[&'a str]) -> Ran {
    let (verb, arguments) = rest.split_first().unwrap();
    run([&[*verb, first][..], arguments, &["--disk", second]].concat())
}

#[test]
fn a_guest_on_a_volume_group_over_two_disks_is_reached_by_every_command() {
    if !["mke2fs", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = two_disks(scratch.path());
    let listed = on(&first, &second, &["lsblk", "--json"]).exits(0).json();
    let root = row(&listed, "vg/root");
    assert_eq!(root["kind"], "lvm");
    assert_eq!(root["content"]["uuid"], ROOT);
    assert_eq!(root["mounted"], serde_json::json!(["/"]));
    assert_eq!(row(&listed, "vg/swap")["mounted"][0], "[SWAP]");
    assert_eq!(row(&listed, "1")["mounted"][0], "/boot");
    assert_eq!(row(&listed, "2")["content"]["kind"], "LVM2_member");
    assert_eq!(row(&listed, "1:0")["content"]["kind"], "LVM2_member");
    let shown = on(&first, &second, &["lsblk"]).exits(0).stdout;
    assert!(shown.contains("first.qcow2"), "{shown}");
    assert!(
        shown.contains("  ├─vg/root") || shown.contains("  └─vg/root"),
        "{shown}"
    );
    let volumes = on(&first, &second, &["inspect", "--volumes"]).exits(0);
    assert_eq!(volumes.stdout, shown);

    let inspected = on(&first, &second, &["inspect", "--json"]).exits(0).json();
    let system = &inspected["systems"][0];
    assert_eq!(system["root"]["name"], "vg/root");
    assert_eq!(system["mounts"][2]["resolved"]["name"], "vg/swap");
    assert_eq!(system["boot"]["config"], "/boot/grub/grub.cfg");

    let ls = on(&first, &second, &["ls", "/"]).exits(0).stdout;
    assert_eq!(ls, "boot\netc\nhome\nlost+found\nsbin\n");
    let cat = on(&first, &second, &["cat", "/etc/hostname"]).exits(0);
    assert_eq!(cat.stdout, "stacked\n");
    let drawn = on(&first, &second, &["tree", "-s", "/home"])
        .exits(0)
        .stdout;
    let expected = "[       1024]  /home\n└── [       1024]  me\n    ├── [          5]  link -> notes\n    └── [       5000]  notes\n\n1 directory, 2 files\n";
    assert_eq!(drawn, expected);
    let sums = on(&first, &second, &["du", "-b", "/home"]).exits(0).stdout;
    assert_eq!(sums, "6029\t/home/me\n7053\t/home\n");
    // What is mounted in it counts.
    let all = on(&first, &second, &["du", "--json", "-a", "/boot"])
        .exits(0)
        .json();
    let config = all
        .as_array()
        .unwrap()
        .iter()
        .find(|sum| sum["path"] == "/boot/grub/grub.cfg");
    assert_eq!(config.unwrap()["bytes"], 14);
    let out = scratch.path().join("out");
    let from = format!("{first}:/home");
    run(["cp", "-r", &from, out.to_str().unwrap(), "--disk", &second]).exits(0);
    judge(
        Command::new("diff")
            .arg("-r")
            .arg(scratch.path().join("root/home"))
            .arg(&out),
    );
    for name in [
        "vg/root",
        "/dev/mapper/vg-root",
        "/dev/vg/root",
        "LABEL=root",
    ] {
        let ls = on(&first, &second, &["ls", "/home", "--volume", name]).exits(0);
        assert_eq!(ls.stdout, "me\n", "{name}");
    }
}

#[test]
fn without_the_second_disk_the_first_ones_partitions_stay_usable() {
    if !["mke2fs", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (first, _) = two_disks(scratch.path());
    let listed = run(["lsblk", &first, "--json"]).exits(0).json();
    let why = row(&listed, "vg/root")["damage"][0]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(why.contains("is missing"), "{why}");
    let shown = run(["lsblk", &first]).exits(0).stdout;
    assert!(shown.contains("is missing"), "{shown}");
    let ls = run(["ls", &first, "/grub", "--volume", "1"]).exits(0);
    assert_eq!(ls.stdout, "grub.cfg\n");
    run(["ls", &first, "--volume", "vg/root"])
        .exits(2)
        .says(&["vg/root", "is missing"]);
    run(["ls", &first, "--volume", "vg/nothing"])
        .exits(2)
        .says(&["there is no volume", "vg/root"]);
}

#[test]
fn an_encrypted_partition_opens_with_its_passphrase_and_says_so_without() {
    if !["mke2fs", "qemu-img"].into_iter().all(have) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let tree = root_tree(folder, "/dev/mapper/secret / ext4 defaults 0 1\n");
    fs::write(tree.join("etc/crypttab"), "secret /dev/sda1 none luks\n").unwrap();
    ext4(folder, &tree, ROOT, "root", 4 << 10);
    let plain = folder.join("root.ext4").to_str().unwrap().to_owned();
    let luks = folder.join("luks").to_str().unwrap().to_owned();
    let arguments = &[
        "convert",
        "-f",
        "raw",
        "-O",
        "luks",
        "--object",
        "secret,id=s,data=right",
        "-o",
        "key-secret=s,iter-time=10",
        &plain,
        &luks,
    ];
    // It measures its own key derivation, which a busy machine can make it give up.
    let made = (0..5).any(|_| {
        let out = Command::new("qemu-img").args(arguments).output().unwrap();
        let said = common::ran(out);
        assert!(
            said.code == 0 || said.stderr.contains("accurate CPU usage"),
            "{}",
            said.stderr
        );
        said.code == 0
    });
    assert!(made, "qemu-img cannot measure its key derivation here");
    let disk = partitioned(&[(0x83, &fs::read(&luks).unwrap())]);
    let image = write(folder, "disk.raw", &disk);
    let right = write(folder, "right", b"right\n");
    let wrong = write(folder, "wrong", b"wrong");

    let listed = run(["lsblk", &image]).exits(0).stdout;
    assert!(listed.contains("crypto_LUKS"), "{listed}");
    assert!(
        listed.contains("no key was given; give its key with --key-file"),
        "{listed}"
    );
    run(["ls", &image]).exits(2).says(&["no key was given"]);
    let with = |verb: &str, more: &[&str]| {
        let keys = ["--key-file", &wrong, "--passphrase-file", &right];
        run([&[verb, &image][..], more, &keys[..]].concat())
    };
    let ls = with("ls", &["/home/me"]).exits(0);
    assert_eq!(ls.stdout, "link\nnotes\n");
    let inspected = with("inspect", &["--json"]).exits(0).json();
    let root = inspected["systems"][0]["root"]["name"].as_str().unwrap();
    assert!(root.starts_with("luks-"), "{root}");
    // crypttab says what fstab means.
    let resolved = &inspected["systems"][0]["mounts"][0]["resolved"];
    assert_eq!(resolved["name"], root);
    // As cryptsetup: every byte of a key file counts, its line feed too.
    run(["ls", &image, "--key-file", &right]).exits(2);
    let mut stdin = Command::new(env!("CARGO_BIN_EXE_rehost"))
        .args(["cat", &image, "/etc/hostname", "--passphrase-file", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut stdin.stdin.take().unwrap(), b"right\n").unwrap();
    assert_eq!(stdin.wait_with_output().unwrap().stdout, b"stacked\n");
}

#[test]
fn a_guest_on_a_mirror_is_found_also_when_one_half_is_missing() {
    if !have("mke2fs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = root_tree(scratch.path(), "/dev/md0 / ext4 defaults 0 1\n");
    let root = ext4(scratch.path(), &tree, ROOT, "root", 4 << 10);
    let made = md::Made {
        version: "1.2",
        level: 1,
        layout: 0,
        members: 2,
    };
    let disks: Vec<String> = (0..2)
        .map(|slot| {
            let member = md::member(made, slot, &root, md::HEALTHY);
            let disk = partitioned(&[(0xfd, &member)]);
            write(scratch.path(), &format!("disk{slot}.raw"), &disk)
        })
        .collect();
    let listed = on(&disks[0], &disks[1], &["lsblk", "--json"])
        .exits(0)
        .json();
    let array = row(&listed, "md0");
    assert_eq!(
        (&array["kind"], &array["form"]),
        (&"raid".into(), &"raid1".into())
    );
    assert_eq!(array["mounted"][0], "/");
    assert_eq!(row(&listed, "1:1")["content"]["kind"], "linux_raid_member");
    let cat = run(["cat", &disks[1], "/etc/hostname"]).exits(0);
    assert_eq!(cat.stdout, "stacked\n");
    let inspected = run(["inspect", &disks[1]]).exits(0).stdout;
    assert!(
        inspected.contains("array md0: 4.0 MiB, raid1, ext4"),
        "{inspected}"
    );
    assert!(
        inspected.contains("the member in slot 0 is missing"),
        "{inspected}"
    );
}

/// A qcow2 image with an ext4 filesystem of some files on partition 1, and FAT on partition 2.
fn with_partitions(folder: &Path) -> String {
    let tree = folder.join("files");
    fs::create_dir_all(tree.join("dir/deep/deeper")).unwrap();
    for (name, content) in [("keep", "kept"), ("dir/a", "a"), ("dir/deep/deeper/b", "b")] {
        fs::write(tree.join(name), content).unwrap();
    }
    let ext4 = ext4(folder, &tree, ROOT, "data", 8 << 10);
    let fat = folder.join("fat");
    fs::write(&fat, vec![0; 4 * MIB]).unwrap();
    judge(Command::new("mkfs.fat").arg(&fat));
    let raw = partitioned(&[(0x83, &ext4), (0xef, &fs::read(fat).unwrap())]);
    let raw = write(folder, "disk.raw", &raw);
    let image = folder.join("disk.qcow2").to_str().unwrap().to_owned();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &image]);
    image
}

/// The first partition of an image of `format`, as e2fsck finds it whole.
fn first_partition(image: &str, format: &str) -> PathBuf {
    let raw = PathBuf::from(format!("{image}.judged"));
    qemu_img(&[
        "convert",
        "-f",
        format,
        "-O",
        "raw",
        image,
        raw.to_str().unwrap(),
    ]);
    let bytes = fs::read(&raw).unwrap();
    fs::write(&raw, &bytes[MIB..9 * MIB]).unwrap();
    judge(Command::new("e2fsck").args(["-f", "-n"]).arg(&raw));
    raw
}

fn debugfs(partition: &Path, request: &str) -> String {
    judge(Command::new("debugfs").args(["-R", request]).arg(partition))
}

#[test]
fn files_are_copied_into_and_removed_from_partitions_in_place_and_to_new_images() {
    if !["mke2fs", "qemu-img", "mkfs.fat", "debugfs", "mcopy"]
        .into_iter()
        .all(have)
    {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = with_partitions(scratch.path());
    let before = common::hash(Path::new(&image));
    let site = scratch.path().join("site");
    fs::create_dir_all(site.join("css")).unwrap();
    fs::write(site.join("index"), "hello").unwrap();
    fs::write(site.join("css/style"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("index", site.join("link")).unwrap();
    let site = site.to_str().unwrap();
    let inside = format!("{image}:/dir");
    let base = ["cp", "-r", site, &inside, "--volume", "1"];
    run(base).exits(2).says(&["--output FILE", "--in-place"]);
    let output = scratch.path().join("new.vmdk").to_str().unwrap().to_owned();
    run([&base[..], &["--output", &output]].concat()).exits(0);
    assert_eq!(
        common::hash(Path::new(&image)),
        before,
        "the source is as it was"
    );
    let new = first_partition(&output, "vmdk");
    assert!(debugfs(&new, "stat /dir/site/link").contains("Fast link dest: \"index\""));
    assert_eq!(debugfs(&new, "cat /dir/site/index"), "hello");
    assert!(debugfs(&new, "stat /dir/site/css/style").contains("Size: 100000"));

    // In place, and away again.
    run([&base[..], &["--in-place"]].concat()).exits(0);
    assert_eq!(
        debugfs(&first_partition(&image, "qcow2"), "cat /dir/site/index"),
        "hello"
    );
    qemu_img(&["check", "-q", &image]);
    let rm = |paths: &[&str]| {
        let fixed = ["--volume", "1", "--in-place"];
        run([&["rm", &image][..], paths, &fixed[..]].concat())
    };
    rm(&["/dir"])
        .exits(2)
        .says(&["is a directory in the guest", "-r"]);
    rm(&["/none"]).exits(2).says(&["no such file in the guest"]);
    rm(&["/keep", "/dir", "-r"]).exits(0);
    let left = first_partition(&image, "qcow2");
    assert!(!debugfs(&left, "ls -p /").contains("/dir/"));
    assert_eq!(
        run(["ls", &image, "--volume", "1"]).exits(0).stdout,
        "lost+found\n"
    );

    // FAT: no links, so the copy says so and nothing is changed.
    let index = format!("{site}/index");
    let fat = format!("{image}:/");
    run(["cp", &index, &fat, "--volume", "2", "--in-place"]).exits(0);
    assert_eq!(
        run(["cat", &image, "/index", "--volume", "2"])
            .exits(0)
            .stdout,
        "hello"
    );
    let before = common::hash(Path::new(&image));
    run(["cp", "-r", site, &fat, "--volume", "2", "--in-place"]).exits(2);
    assert_eq!(common::hash(Path::new(&image)), before);
    run(["rm", &image, "/index", "--volume", "2", "--in-place"]).exits(0);
    assert_eq!(run(["ls", &image, "--volume", "2"]).exits(0).stdout, "");
}

#[test]
fn names_made_to_deceive_are_spelled_out() {
    if !have("mke2fs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("files");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("a\n└── fake\x1b[2J"), "").unwrap();
    let bad = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe");
    fs::write(tree.join(bad), "").unwrap();
    let image = ext4(scratch.path(), &tree, ROOT, "bad", 1 << 10);
    let image = write(scratch.path(), "bad.raw", &image);
    let drawn = run(["tree", &image]).exits(0).stdout;
    assert!(drawn.contains("a\\n└── fake\\u{1b}[2J"), "{drawn}");
    assert_eq!(drawn.lines().count(), 6, "{drawn}");
    let listed = run(["tree", "--json", &image]).exits(0).json();
    let children = listed["children"].as_array().unwrap();
    assert!(children.iter().any(|child| child["name_base16"] == "fffe"));
    assert_eq!(
        (&listed["directories"], &listed["files"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn du_and_tree_say_what_their_namesakes_say_of_the_sample_guest() {
    let Some(guest) = common::guest("tiny") else {
        return;
    };
    let image = guest.join("guest.vmdk");
    let image = image.to_str().unwrap();
    // tree.tsv lists the guest's files as they were put there: path, type, mode, owner, size, link.
    let text = fs::read_to_string(guest.join("tree.tsv")).unwrap();
    let listed: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .filter(|fields: &Vec<&str>| fields[0].starts_with("etc/"))
        .collect();
    let files = listed.iter().filter(|fields| fields[1] == "f");
    let expected: u64 = files.map(|fields| fields[4].parse::<u64>().unwrap()).sum();
    let sums = run(["du", "--json", "-a", image, "/etc"]).exits(0).json();
    let ours: u64 = sums
        .as_array()
        .unwrap()
        .iter()
        .filter(|sum| {
            let path = sum["path"].as_str().unwrap();
            listed
                .iter()
                .any(|fields| fields[1] == "f" && path.strip_prefix('/') == Some(fields[0]))
        })
        .map(|sum| sum["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(ours, expected);
    let tree = run(["tree", "--json", image, "/etc"]).exits(0).json();
    let count = |field: &str| tree[field].as_u64().unwrap();
    assert_eq!(count("directories") + count("files"), listed.len() as u64);
}

/// Unmounts what is mounted there when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_guest_in_btrfs_subvolumes_is_found_and_its_files_reached() {
    if !["mkfs.btrfs", "btrfs", "mount", "blkid"]
        .into_iter()
        .all(have)
    {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("b.raw");
    fs::File::create(&image)
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    judge(Command::new("mkfs.btrfs").arg("-q").arg(&image));
    let top = scratch.path().join("top");
    fs::create_dir(&top).unwrap();
    let mount = Command::new("mount")
        .args(["-o", "loop"])
        .arg(&image)
        .arg(&top)
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("skipped: needs mount as root, and Btrfs in the kernel");
        return;
    }
    let mounted = Mounted(top.clone());
    for name in ["@", "@home"] {
        judge(
            Command::new("btrfs")
                .args(["subvolume", "create"])
                .arg(top.join(name)),
        );
    }
    let said = judge(
        Command::new("blkid")
            .args(["-o", "value", "-s", "UUID"])
            .arg(&image),
    );
    let uuid = said.trim();
    for folder in ["@/etc", "@/sbin", "@/home", "@/boot/grub", "@home/me"] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    for (path, content) in [
        ("@/sbin/init", "x".to_owned()),
        ("@/boot/vmlinuz", "k".to_owned()),
        ("@/etc/os-release", "ID=ubuntu\n".to_owned()),
        ("@home/me/hello", "hi\n".to_owned()),
        (
            "@/etc/fstab",
            format!(
                "UUID={uuid} / btrfs subvol=@ 0 0\nUUID={uuid} /home btrfs defaults,subvol=/@home 0 0\n"
            ),
        ),
        (
            "@/boot/grub/grub.cfg",
            format!(
                "menuentry 'U' {{\nsearch --fs-uuid --set=root {uuid}\nlinux /@/boot/vmlinuz root=UUID={uuid} rootflags=subvol=@\n}}\n"
            ),
        ),
    ] {
        fs::write(top.join(path), content).unwrap();
    }
    drop(mounted);
    let image = image.to_str().unwrap();
    assert_eq!(run(["ls", image, "/home/me"]).exits(0).stdout, "hello\n");
    assert_eq!(
        run(["cat", image, "/home/me/hello"]).exits(0).stdout,
        "hi\n"
    );
    let inspected = run(["inspect", "--json", image]).exits(0).json();
    let system = &inspected["systems"][0];
    assert_eq!(system["root"]["subvolume"], "@");
    assert_eq!(system["boot"]["entries"][0]["kernel"], "/boot/vmlinuz");
    let listed = run(["lsblk", "--json", image]).exits(0).json();
    assert_eq!(
        row(&listed, "0")["mounted"],
        serde_json::json!(["/", "/home"])
    );
    // Written through the subvolume that is mounted there.
    let new = scratch.path().join("new");
    fs::write(&new, "new\n").unwrap();
    let inside = format!("{image}:/home/me/new");
    run(["cp", new.to_str().unwrap(), &inside, "--in-place"]).exits(0);
    assert_eq!(run(["cat", image, "/home/me/new"]).exits(0).stdout, "new\n");
    judge(
        Command::new("btrfs")
            .args(["check", "--check-data-csum"])
            .arg(image),
    );
}
