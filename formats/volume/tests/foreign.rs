//! Layouts judged by `sfdisk -J` and `blkid -p`, and tables that lie.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, File, Memory, Overlay, StorageDisk};
use rehost_volume::{Layout, Table, scan};
use serde_json::Value;

fn has(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: needs {tool}");
    }
    found
}

struct Image {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

/// A sparse disk of `mib` MiB partitioned by sfdisk from `script`.
fn partitioned(mib: u64, script: &str) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(mib << 20)
        .unwrap();
    let mut child = Command::new("sfdisk")
        .args(["-q", "--no-reread"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    Image {
        _folder: folder,
        path,
    }
}

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(File::open(path).unwrap())))
}

fn memory(bytes: Vec<u8>) -> Arc<dyn Disk> {
    Arc::new(StorageDisk::new(Arc::new(Memory::new("disk", bytes))))
}

/// What sfdisk says of the same disk, put into our terms and compared.
fn agrees_with_sfdisk(path: &Path) -> Layout {
    let layout = scan(&disk(path)).unwrap();
    let out = Command::new("sfdisk").arg("-J").arg(path).output().unwrap();
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let table = &json["partitiontable"];
    let label = table["label"].as_str().unwrap();
    assert_eq!(
        layout.table,
        if label == "gpt" {
            Table::Gpt
        } else {
            Table::Mbr
        }
    );
    let id = table["id"].as_str().unwrap();
    assert_eq!(
        layout.id.as_deref().unwrap(),
        id.trim_start_matches("0x").to_lowercase()
    );
    let theirs = table["partitions"].as_array().unwrap();
    assert_eq!(theirs.len(), layout.volumes.len());
    for part in theirs {
        let node = part["node"].as_str().unwrap();
        let number: u32 = node[path.to_str().unwrap().len()..]
            .trim_start_matches('p')
            .parse()
            .unwrap();
        let ours = layout.volume(number).unwrap();
        let start = part["start"].as_u64().unwrap() * 512;
        assert_eq!(ours.range.start, start, "partition {number}");
        assert_eq!(ours.range.end, start + part["size"].as_u64().unwrap() * 512);
        let kind = part["type"].as_str().unwrap().to_lowercase();
        assert_eq!(ours.kind.trim_start_matches("0x"), kind);
        assert_eq!(
            ours.name.as_deref(),
            part["name"].as_str(),
            "partition {number}"
        );
        if let Some(uuid) = part["uuid"].as_str() {
            assert_eq!(ours.partuuid.as_deref().unwrap(), uuid.to_lowercase());
        }
        let active = part["bootable"].as_bool().unwrap_or(false)
            || part["attrs"]
                .as_str()
                .is_some_and(|a| a.contains("LegacyBIOSBootable"));
        assert_eq!(ours.bootable, active);
    }
    layout
}

#[test]
fn dos_table_with_logical_partitions() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(
        200,
        "label: dos\nlabel-id: 0x8f3a11c2\n2048,40960,83,*\n,20480,82\n,,5\n,16384,83\n,8192,8e\n,,c\n",
    );
    let layout = agrees_with_sfdisk(&image.path);
    assert_eq!(layout.volumes.len(), 6);
    assert_eq!(
        layout.volume(6).unwrap().partuuid.as_deref(),
        Some("8f3a11c2-06")
    );
    assert!(layout.damage.is_empty());
}

#[test]
fn dos_partuuid_is_what_blkid_prints() {
    if !has("sfdisk") || !has("blkid") {
        return;
    }
    let image = partitioned(64, "label: dos\n2048,40960,83,*\n");
    let layout = agrees_with_sfdisk(&image.path);
    let out = Command::new("blkid")
        .args(["-p", "-o", "value", "-s", "PTUUID"])
        .arg(&image.path)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).trim(),
        layout.id.unwrap()
    );
}

const GPT: &str = "label: gpt\n\
    start=2048, size=4096, type=21686148-6449-6E6F-744E-656564454649, name=\"BIOS boot\", attrs=LegacyBIOSBootable\n\
    size=65536, type=U, name=\"esp ünï\"\n\
    type=L\n";

#[test]
fn guid_table() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(100, GPT);
    let layout = agrees_with_sfdisk(&image.path);
    assert_eq!(layout.volumes.len(), 3);
    assert!(layout.damage.is_empty(), "{:?}", layout.damage);
}

#[test]
fn guid_table_with_a_gap_in_its_numbers() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(100, GPT);
    let status = Command::new("sfdisk")
        .args(["-q", "--no-reread", "--delete"])
        .arg(&image.path)
        .arg("2")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(agrees_with_sfdisk(&image.path).volumes[1].number, 3);
}

#[test]
fn damaged_primary_falls_back_to_the_backup() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(100, GPT);
    let whole = scan(&disk(&image.path)).unwrap();
    for broken in [520, 1024 + 40] {
        let mut bytes = std::fs::read(&image.path).unwrap();
        bytes[broken] ^= 0xff;
        let layout = scan(&memory(bytes)).unwrap();
        assert_eq!(layout.volumes, whole.volumes);
        assert_eq!(layout.damage.len(), 1, "byte {broken}");
    }
}

#[test]
fn both_copies_damaged_is_a_named_error() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(10, "label: gpt\n2048,4096,L\n");
    let mut bytes = std::fs::read(&image.path).unwrap();
    let end = bytes.len();
    bytes[520] ^= 1;
    bytes[end - 500] ^= 1;
    let error = scan(&memory(bytes)).unwrap_err();
    assert_eq!(error.kind(), rehost_block::Kind::Corrupt);
    assert_eq!(error.structure(), Some("GPT"));
}

#[test]
fn guid_table_of_4096_byte_sectors() {
    if !has("sfdisk") {
        return;
    }
    // sfdisk takes the sector size from the device; for a file it is told by an option of newer
    // versions only. The same table is moved by hand instead: every structure at eight times its
    // offset, which is what sectors of 4096 bytes mean.
    let image = partitioned(64, "label: gpt\nstart=2048, size=4096, type=L, name=four\n");
    let small = std::fs::read(&image.path).unwrap();
    let sectors = small.len() / 512;
    let mut large = vec![0; small.len() * 8];
    for sector in (0..34).chain(sectors - 33..sectors) {
        large[sector * 4096..sector * 4096 + 512]
            .copy_from_slice(&small[sector * 512..sector * 512 + 512]);
    }
    // Entries are packed, not spread over sectors.
    large[2 * 4096..2 * 4096 + 32 * 512].copy_from_slice(&small[1024..1024 + 32 * 512]);
    let layout = scan(&memory(large)).unwrap();
    assert_eq!(layout.sector, 4096);
    assert_eq!(layout.volumes[0].range, 2048 * 4096..6144 * 4096);
    assert_eq!(layout.volumes[0].name.as_deref(), Some("four"));
}

#[test]
fn a_hybrid_table_is_read_as_the_guid_table() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(100, GPT);
    let whole = scan(&disk(&image.path)).unwrap();
    let mut bytes = std::fs::read(&image.path).unwrap();
    // The protective entry moves to second place, as gdisk's hybrid tables have it.
    bytes.copy_within(446..462, 462);
    bytes[450] = 0x83;
    bytes[454..458].copy_from_slice(&2048u32.to_le_bytes());
    bytes[458..462].copy_from_slice(&2048u32.to_le_bytes());
    let hybrid = scan(&memory(bytes)).unwrap();
    assert_eq!(hybrid, whole);
}

#[test]
fn entries_of_other_sizes_are_read_where_the_specification_allows_them() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(10, GPT_OF_THREE);
    let whole = scan(&disk(&image.path)).unwrap();
    let small = std::fs::read(&image.path).unwrap();
    let end = small.len();
    for (size, said) in [
        (256, None),
        (1024, None),
        (192, Some("size of the entries")),
        (64, Some("size of the entries")),
        (1 << 31, Some("too many partition entries")),
    ] {
        let mut bytes = small.clone();
        // Sixteen entries fit before the first partition and at the end at each of these sizes.
        let mut entries = vec![0; 16 * 1024];
        for nth in 0..16 {
            let from = &small[1024 + nth * 128..1024 + (nth + 1) * 128];
            let place = nth * size.min(1024);
            entries[place..place + 128].copy_from_slice(from);
        }
        let len = 16 * size.min(1024);
        bytes[1024..1024 + len].copy_from_slice(&entries[..len]);
        bytes[end - 33 * 512..end - 33 * 512 + len].copy_from_slice(&entries[..len]);
        for header in [512, end - 512] {
            let put = |bytes: &mut [u8], at: usize, value: u32| {
                bytes[header + at..header + at + 4].copy_from_slice(&value.to_le_bytes());
            };
            put(&mut bytes, 80, 16);
            put(&mut bytes, 84, size as u32);
            put(&mut bytes, 88, crc32fast::hash(&entries[..len]));
            put(&mut bytes, 16, 0);
            let crc = crc32fast::hash(&bytes[header..header + 92]);
            put(&mut bytes, 16, crc);
        }
        match said {
            None => assert_eq!(scan(&memory(bytes)).unwrap(), whole, "{size}"),
            Some(said) => {
                let error = scan(&memory(bytes)).unwrap_err();
                assert_eq!(error.kind(), rehost_block::Kind::Corrupt);
                assert!(error.to_string().contains(said), "{error}");
            }
        }
    }
}

const GPT_OF_THREE: &str = "label: gpt\nstart=2048, size=2048, type=L, name=one\nsize=2048, type=U, name=two\nsize=2048, type=L, name=three\n";

/// A disk of 64 MiB with sectors of 4096 bytes, partitioned by fdisk with these commands.
fn of_large_sectors(commands: &str) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut child = Command::new("fdisk")
        .args(["-b", "4096"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(commands.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    Image {
        _folder: folder,
        path,
    }
}

#[test]
fn a_guid_table_of_large_sectors_by_fdisk_is_read_from_either_copy() {
    if !has("fdisk") {
        return;
    }
    let image = of_large_sectors("g\nn\n1\n256\n1279\nn\n2\n2048\n4095\nw\n");
    let layout = scan(&disk(&image.path)).unwrap();
    assert_eq!((layout.table, layout.sector), (Table::Gpt, 4096));
    let ranges: Vec<_> = layout.volumes.iter().map(|one| one.range.clone()).collect();
    assert_eq!(ranges, [1 << 20..5 << 20, 8 << 20..16 << 20]);
    assert!(layout.damage.is_empty(), "{:?}", layout.damage);
    let mut bytes = std::fs::read(&image.path).unwrap();
    for broken in [4096 + 30, 8192 + 40] {
        bytes[broken] ^= 1;
        let backup = scan(&memory(bytes.clone())).unwrap();
        assert_eq!(backup.volumes, layout.volumes, "byte {broken}");
        assert_eq!(backup.damage.len(), 1);
        bytes[broken] ^= 1;
    }
    // A grown disk: the backup is where the primary header says, and not at the end.
    bytes.resize(80 << 20, 0);
    bytes[8192 + 40] ^= 1;
    assert_eq!(scan(&memory(bytes)).unwrap().volumes, layout.volumes);
}

#[test]
fn a_dos_table_of_large_sectors_is_known_by_what_begins_where() {
    if !has("fdisk") {
        return;
    }
    let image = of_large_sectors(
        "o\nn\np\n1\n256\n1279\nn\ne\n2\n2048\n8191\nn\nl\n2304\n3327\nn\nl\n4096\n5119\nw\n",
    );
    let mut bytes = std::fs::read(&image.path).unwrap();
    // The extended boot record is at the place that sectors of 4096 bytes mean.
    let layout = scan(&memory(bytes.clone())).unwrap();
    assert_eq!((layout.table, layout.sector), (Table::Mbr, 4096));
    let found: Vec<_> = layout
        .volumes
        .iter()
        .map(|one| (one.number, one.range.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (1, 1 << 20..5 << 20),
            (2, 8 << 20..32 << 20),
            (5, 9 << 20..13 << 20),
            (6, 16 << 20..20 << 20),
        ]
    );
    // Something at a place that sectors of 512 bytes mean decides for those.
    bytes[256 * 512..256 * 512 + 4].copy_from_slice(b"XFSB");
    assert_eq!(scan(&memory(bytes)).unwrap().sector, 512);
}

#[test]
fn tables_that_are_not_read_are_named() {
    let zeroes = vec![0; 1 << 20];
    let put = |places: &[(usize, &[u8])]| {
        let mut bytes = zeroes.clone();
        for (at, what) in places {
            bytes[*at..at + what.len()].copy_from_slice(what);
        }
        scan(&memory(bytes)).unwrap()
    };
    let magic = &0x8256_4557_u32.to_le_bytes()[..];
    let bsd = put(&[(512, magic), (644, magic)]);
    assert_eq!(bsd.table, Table::None);
    assert_eq!(
        bsd.damage,
        ["the disk has a BSD disklabel, which is not read"]
    );
    assert!(put(&[(512, magic)]).damage.is_empty());
    for (place, what, said) in [
        (512, &b"PM\0\0"[..], "an Apple partition map"),
        (0, b"RDSK", "an Amiga rigid disk block"),
        (3072, b"PRIVHEAD", "a database of Windows dynamic volumes"),
    ] {
        let layout = put(&[(place, what)]);
        assert!(layout.damage[0].contains(said), "{:?}", layout.damage);
    }
    for (label, said) in [("sun", "a Sun disklabel"), ("sgi", "an SGI volume header")] {
        if has("sfdisk") {
            let image = partitioned(64, &format!("label: {label}\n"));
            let layout = scan(&disk(&image.path)).unwrap();
            assert!(layout.damage[0].contains(said), "{:?}", layout.damage);
        }
    }
    if has("sfdisk") {
        let image = partitioned(10, "label: dos\n2048,4096,a5\n8192,4096,bf\n");
        let mut bytes = std::fs::read(&image.path).unwrap();
        bytes[(2048 + 1) * 512..][..4].copy_from_slice(magic);
        bytes[(2048 + 1) * 512 + 132..][..4].copy_from_slice(magic);
        bytes[(8192 + 1) * 512 + 12..][..4].copy_from_slice(&0x600d_deee_u32.to_le_bytes());
        let layout = scan(&memory(bytes)).unwrap();
        let said = [
            "partition 1 has a BSD disklabel, which is not read",
            "partition 2 has a Solaris VTOC, which is not read",
        ];
        assert_eq!(layout.damage, said);
    }
}

#[test]
fn tables_that_others_made_are_read_or_named() {
    let corpora = std::env::var_os("REHOST_CORPORA").map(PathBuf::from);
    let folder = corpora.map(|root| root.join("util-linux-blkid/tests/ts/blkid/images-pt"));
    let Some(folder) = folder.filter(|folder| folder.exists()) else {
        println!("skipped: needs REHOST_CORPORA");
        return;
    };
    for (name, said) in [
        ("dos+bsd", "has a BSD disklabel"),
        ("sgi", "an SGI volume header"),
        ("sun", "a Sun disklabel"),
    ] {
        let image = folder.join(format!("{name}.img.xz"));
        let out = Command::new("xz").arg("-dc").arg(image).output().unwrap();
        let layout = scan(&memory(out.stdout)).unwrap();
        let named = layout.damage.iter().any(|damage| damage.contains(said));
        assert!(named, "{name}: {layout:?}");
    }
}

#[test]
fn partition_past_the_end_is_an_error_for_it_alone() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(100, "label: dos\n2048,40960,83\n,40960,83\n");
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes.truncate(50_000 * 512);
    let disk = memory(bytes);
    let layout = scan(&disk).unwrap();
    assert_eq!(layout.open(&disk, 1).unwrap().size(), 40_960 * 512);
    let error = layout.open(&disk, 2).unwrap_err();
    assert!(error.to_string().contains("partition 2"), "{error}");
    assert!(layout.open(&disk, 3).is_err());
}

#[test]
fn logical_chain_that_loops_ends() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(100, "label: dos\n2048,,5\n,16384,83\n,16384,83\n");
    let mut bytes = std::fs::read(&image.path).unwrap();
    let layout = scan(&memory(bytes.clone())).unwrap();
    assert_eq!(layout.volumes.len(), 3);
    // The first record's link points at itself.
    bytes[2048 * 512 + 462 + 8..2048 * 512 + 462 + 12].fill(0);
    let looping = scan(&memory(bytes)).unwrap();
    assert_eq!(looping.volumes[1], layout.volumes[1]);
    assert!(looping.damage[0].contains("loops"), "{:?}", looping.damage);
}

#[test]
fn filesystem_on_the_whole_disk_is_one_volume() {
    let disk = memory(vec![0; 1 << 20]);
    let layout = scan(&disk).unwrap();
    assert_eq!(layout.table, Table::None);
    assert_eq!(layout.open(&disk, 0).unwrap().size(), 1 << 20);
    for (tool, args) in [
        ("mkfs.vfat", &["-F", "32"][..]),
        ("mkfs.ext4", &["-q", "-F"][..]),
    ] {
        if !has(tool) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fs.raw");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        let made = Command::new(tool)
            .args(args)
            .arg(&path)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        let layout = scan(&crate::disk(&path)).unwrap();
        assert_eq!(layout.table, Table::None, "{tool}");
    }
}

#[test]
fn writes_through_a_volume_land_inside_it() {
    if !has("sfdisk") {
        return;
    }
    let image = partitioned(10, "label: dos\n2048,4096,83\n");
    let overlay: Arc<dyn DiskMut> = Arc::new(Overlay::in_memory(disk(&image.path)));
    let base: Arc<dyn Disk> = overlay.clone();
    let layout = scan(&base).unwrap();
    let volume = layout.open_mut(&overlay, 1).unwrap();
    volume.write_at(b"here", 0).unwrap();
    let mut seen = [0; 4];
    base.read_at(&mut seen, 2048 * 512).unwrap();
    assert_eq!(&seen, b"here");
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_first_sectors_give_a_layout_or_an_error(
            mut head in prop::collection::vec(any::<u8>(), 2048),
            marked in any::<bool>(),
        ) {
            head[510] = 0x55;
            head[511] = 0xaa;
            for entry in 0..4 {
                head[446 + entry * 16] &= 0x80;
            }
            if marked {
                head[450] = 0xee;
                head[512..520].copy_from_slice(b"EFI PART");
            }
            head.resize(1 << 20, 0);
            let disk = memory(head);
            if let Ok(layout) = scan(&disk) {
                for volume in &layout.volumes {
                    let _ = layout.open(&disk, volume.number);
                }
            }
        }
    }
}
