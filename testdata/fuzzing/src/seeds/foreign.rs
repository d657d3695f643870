//! Seeds that foreign tools make.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Seed, disk};
use crate::Target;

/// Commands, `;` between their arguments, that make the file `out`, of the raw disk `disk` where they
/// need one.
struct Recipe {
    name: &'static str,
    tool: &'static str,
    args: &'static str,
}

const fn recipe(name: &'static str, tool: &'static str, args: &'static str) -> Recipe {
    Recipe { name, tool, args }
}

/// Options that leave out what a mutated copy could not get past: checksums everywhere.
const PLAIN_EXT: &str = "^metadata_csum,^metadata_csum_seed";

const QCOW2: &[Recipe] = &[
    recipe(
        "snapshots",
        "qemu-img",
        "convert -q -f raw -O qcow2 -o cluster_size=512 disk out;snapshot -c first out;snapshot -c second out",
    ),
    recipe(
        "bitmaps",
        "qemu-img",
        "convert -q -f raw -O qcow2 -o cluster_size=1k disk out;bitmap --add -g 512 out b;bitmap --add --disable out c",
    ),
    recipe(
        "qemu",
        "qemu-img",
        "convert -q -f raw -O qcow2 -o cluster_size=1k disk out",
    ),
    recipe(
        "backing",
        "qemu-img",
        "create -q -f qcow2 -o cluster_size=512 -b disk -F raw out",
    ),
    recipe(
        "luks",
        "qemu-img",
        "create -q -f qcow2 --object secret,id=s,data=rehost -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=512 out 64k",
    ),
];
const VMDK: &[Recipe] = &[
    recipe("qemu", "qemu-img", "convert -q -f raw -O vmdk disk out"),
    recipe(
        "stream",
        "qemu-img",
        "convert -q -f raw -O vmdk -o subformat=streamOptimized disk out",
    ),
];
const VHD: &[Recipe] = &[recipe(
    "qemu",
    "qemu-img",
    "convert -q -f raw -O vpc disk out",
)];
const VHDX: &[Recipe] = &[recipe(
    "qemu",
    "qemu-img",
    "convert -q -f raw -O vhdx -o block_size=1M,log_size=1M disk out",
)];
const VDI: &[Recipe] = &[recipe(
    "qemu",
    "qemu-img",
    "convert -q -f raw -O vdi disk out",
)];
const PARALLELS: &[Recipe] = &[recipe(
    "qemu",
    "qemu-img",
    "convert -q -f raw -O parallels -o cluster_size=4k disk out",
)];
const QED: &[Recipe] = &[
    recipe(
        "qemu",
        "qemu-img",
        "convert -q -f raw -O qed -o cluster_size=4k,table_size=2 disk out",
    ),
    recipe(
        "backing",
        "qemu-img",
        "create -q -f qed -o cluster_size=4k,table_size=2 -b disk -F raw out",
    ),
];
const QCOW: &[Recipe] = &[
    recipe("qemu", "qemu-img", "convert -q -f raw -O qcow disk out"),
    recipe(
        "compressed",
        "qemu-img",
        "convert -q -c -f raw -O qcow disk out",
    ),
    recipe(
        "backing",
        "qemu-img",
        "create -q -f qcow -b disk -F raw out",
    ),
];
const WRAPPER: &[Recipe] = &[
    recipe("gzip", "gzip", "-k disk"),
    recipe("xz", "xz", "-k --block-size=16KiB disk"),
    recipe("zstd", "zstd", "-q disk"),
    recipe("bzip2", "bzip2", "-k disk"),
];
/// A comment stands for each blank of a statement.
const RPM: &[Recipe] = &[recipe(
    "sqlite",
    "sqlite3",
    "out CREATE/**/TABLE/**/Packages(hnum/**/INTEGER/**/PRIMARY/**/KEY,blob/**/BLOB/**/NOT/**/NULL);\
     out INSERT/**/INTO/**/Packages(blob)/**/VALUES(x'0000000100000005000003e8000000060000000000000001626173680000');\
     out INSERT/**/INTO/**/Packages(blob)/**/VALUES(zeroblob(9000))",
)];
const LUKS: &[Recipe] = &[
    recipe(
        "luks1",
        "qemu-img",
        "create -q -f luks --object secret,id=s,data=rehost -o key-secret=s,iter-time=10 out 64k",
    ),
    recipe(
        "luks2",
        "cryptsetup",
        "luksFormat -q --type luks2 --luks2-metadata-size=16k --luks2-keyslots-size=1m --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --disable-locks --key-file key out",
    ),
    recipe(
        "argon2",
        "cryptsetup",
        "luksFormat -q --type luks2 --luks2-metadata-size=16k --luks2-keyslots-size=1m --pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32 --pbkdf-parallel 1 --disable-locks --key-file key out",
    ),
];
const EXT4: &[Recipe] = &[
    recipe(
        "ext4",
        "mke2fs",
        "-q -F -t ext4 -b 1024 -N 64 -d tree -O PLAIN,^resize_inode out 512",
    ),
    recipe(
        "journal",
        "mke2fs",
        "-q -F -t ext4 -b 1024 -N 32 -J size=1 -d tree -O PLAIN out 4096",
    ),
    recipe(
        "inline",
        "mke2fs",
        "-q -F -t ext4 -b 1024 -N 64 -d tree -O PLAIN,^resize_inode,^has_journal,inline_data,meta_bg,bigalloc out 512",
    ),
    recipe(
        "ext2",
        "mke2fs",
        "-q -F -t ext2 -b 1024 -N 32 -d tree -O ^resize_inode out 256",
    ),
    recipe(
        "checksums",
        "mke2fs",
        "-q -F -t ext4 -b 1024 -N 32 -d tree -O ^resize_inode,^has_journal out 256",
    ),
];
const BTRFS: &[Recipe] = &[
    recipe(
        "mixed",
        "mkfs.btrfs",
        "-q -f -n 4096 -M -m single -d single -r tree out",
    ),
    recipe(
        "old",
        "mkfs.btrfs",
        "-q -f -n 4096 -M -m single -d single -O ^no-holes -R ^free-space-tree -r tree out",
    ),
];
const ISO9660: &[Recipe] = &[
    recipe("rock-ridge", "genisoimage", "-quiet -R -o out tree"),
    recipe("joliet", "genisoimage", "-quiet -J -o out tree"),
    recipe("plain", "genisoimage", "-quiet -no-pad -o out tree"),
    recipe("xorriso", "xorriso", "-as mkisofs -quiet -R -o out tree"),
];
const SQUASHFS: &[Recipe] = &[
    recipe(
        "gzip",
        "mksquashfs",
        "tree out -quiet -no-progress -noI -noId -noX -b 4096",
    ),
    recipe(
        "plain",
        "mksquashfs",
        "tree out -quiet -no-progress -noI -noId -noX -noD -noF -b 4096 -no-fragments",
    ),
    recipe("xz", "mksquashfs", "tree out -quiet -no-progress -comp xz"),
    recipe(
        "lz4",
        "mksquashfs",
        "tree out -quiet -no-progress -comp lz4",
    ),
    recipe(
        "zstd",
        "mksquashfs",
        "tree out -quiet -no-progress -comp zstd",
    ),
];
const FAT: &[Recipe] = &[
    recipe(
        "fat12",
        "mkfs.vfat",
        "-F 12 -i 12345678 -n REHOST -C out 512;MCOPY",
    ),
    recipe("fat16", "mkfs.vfat", "-F 16 -s 1 -C out 4096;MCOPY"),
    recipe("fat32", "mkfs.vfat", "-F 32 -s 1 -C out 4096;MCOPY"),
];
const JOURNAL: &[Recipe] = &[
    recipe(
        "ext3",
        "mke2fs",
        "-q -F -t ext3 -b 1024 -N 32 -J size=1 -d tree -O ^resize_inode out 4096;DEBUGFS",
    ),
    recipe(
        "ext4",
        "mke2fs",
        "-q -F -t ext4 -b 1024 -N 32 -J size=1 -d tree -O ^resize_inode out 4096;DEBUGFS",
    ),
];
const THIN: &[Recipe] = &[recipe("restored", "thin_restore", "-q -i thin.xml -o out")];
const INITRAMFS: &[Recipe] = &[
    recipe("plain", "sh", "pack cat"),
    recipe("gzip", "sh", "pack gzip -9"),
    recipe("zstd", "sh", "pack zstd -q"),
    recipe("xz", "sh", "pack xz --check=crc32"),
    recipe("lz4", "sh", "pack lz4 -l -q"),
    recipe("bzip2", "sh", "pack bzip2"),
    recipe("lzma", "sh", "pack xz --format=lzma"),
    recipe("two", "sh", "pack cat;pack gzip"),
];
const XFS: &[Recipe] = &[
    recipe(
        "xfs",
        "mkfs.xfs",
        "-q -f -d file,name=out,size=16m,agcount=1 -b size=1024 -l size=6m -m rmapbt=1 -p proto",
    ),
    recipe(
        "version4",
        "mkfs.xfs",
        "-q -f -d file,name=out,size=16m,agcount=1 -b size=512 -l size=3m -m crc=0 -p proto",
    ),
];
const PARTITIONS: &[Recipe] = &[recipe(
    "gpt",
    "sfdisk",
    "-q --no-reread --no-tell-kernel out",
)];

/// Two devices, the second of which has a block of the first.
const THIN_XML: &[u8] = br#"<superblock uuid="" time="1" transaction="0" flags="0" version="2" data_block_size="16" nr_data_blocks="32">
<device dev_id="1" mapped_blocks="5" transaction="0" creation_time="0" snap_time="1">
<range_mapping origin_begin="0" data_begin="3" length="4" time="0"/>
<single_mapping origin_block="900" data_block="1" time="1"/>
</device>
<device dev_id="2" mapped_blocks="1" transaction="0" creation_time="1" snap_time="1">
<single_mapping origin_block="2" data_block="5" time="0"/>
</device>
</superblock>
"#;

pub(super) fn seeds(target: Target) -> Vec<Seed> {
    let recipes = match target {
        Target::Qcow2 => QCOW2,
        Target::Vmdk => VMDK,
        Target::Vhd => VHD,
        Target::Vhdx => VHDX,
        Target::Vdi => VDI,
        Target::Parallels => PARALLELS,
        Target::Qed => QED,
        Target::Qcow => QCOW,
        Target::Wrapper => WRAPPER,
        Target::Luks => LUKS,
        Target::Ext4 => EXT4,
        Target::Xfs => XFS,
        Target::Btrfs => BTRFS,
        Target::Iso9660 => ISO9660,
        Target::Squashfs => SQUASHFS,
        Target::Partitions => PARTITIONS,
        Target::RpmDatabase => RPM,
        Target::Fat => FAT,
        Target::Journal => JOURNAL,
        Target::Thin => THIN,
        Target::Initramfs => INITRAMFS,
        _ => &[],
    };
    recipes.iter().filter_map(cook).collect()
}

/// What the recipe gives; says so where its tool is absent or cannot do it.
fn cook(recipe: &Recipe) -> Option<Seed> {
    let folder = tempfile::tempdir().unwrap();
    ingredients(folder.path(), recipe);
    let args = recipe.args.replace("PLAIN", PLAIN_EXT);
    let path = std::env::var("PATH").unwrap_or_default();
    for args in args.split(';') {
        let input = fs::File::open(folder.path().join("input")).unwrap();
        let (tool, args) = match args {
            "MCOPY" => ("mcopy", "-s -i out tree/etc ::"),
            "DEBUGFS" => ("debugfs", "-w -f journal out"),
            _ => (recipe.tool, args),
        };
        let done = Command::new(tool)
            .args(args.split(' '))
            .current_dir(folder.path())
            // Debian keeps the makers of filesystems where an ordinary user does not look.
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            // With these mkfs.xfs makes filesystems as small as its own tests need them.
            .envs([("TEST_DIR", "1"), ("TEST_DEV", "1"), ("QA_CHECK_FS", "1")])
            .stdin(Stdio::from(input))
            .output();
        let Ok(output) = done else {
            println!("skipped a seed: needs {}", recipe.tool);
            return None;
        };
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            println!("skipped a seed: {} {args}: {why}", recipe.tool);
            return None;
        }
    }
    let made = ["out", "disk.gz", "disk.xz", "disk.zst", "disk.bz2"]
        .iter()
        .find_map(|name| fs::read(folder.path().join(name)).ok())?;
    Seed::new(recipe.name, &made)
}

fn ingredients(folder: &Path, recipe: &Recipe) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    write("disk", &disk());
    write("key", b"rehost");
    write("input", b"label: gpt\n,20K,L,*\n,,U\n");
    write(
        "pack",
        b"find tree | cpio --quiet -o -H newc | \"$@\" >>out",
    );
    // Two blocks, one of which is then revoked, in transactions of their own.
    write(
        "journal",
        b"jo\njw -b 3000,3001 disk\njc\njo\njw -r 3001\njc\n",
    );
    write("thin.xml", THIN_XML);
    let room = match recipe.tool {
        "cryptsetup" => 3 << 20,
        "sfdisk" => 2 << 20,
        "mkfs.btrfs" => 16 << 20,
        "thin_restore" => 64 << 10,
        _ => 0,
    };
    if room > 0 {
        write("out", &vec![0; room]);
    }
    let mut proto =
        "/stand/boot\n1 1\nd--755 0 0\nlink l--777 0 0 key\nmany d--755 0 0\n".to_owned();
    for nth in 0..60 {
        writeln!(proto, "a-file-with-a-longer-name-{nth} ---644 0 0 key").unwrap();
    }
    proto += "$\nfew d--755 0 0\none ---644 0 0 disk\n$\n$\n";
    write("proto", proto.as_bytes());
    fs::create_dir_all(folder.join("tree/etc/deep")).unwrap();
    write("tree/etc/hosts", &[b'h'; 50]);
    write("tree/etc/deep/large", &[b'l'; 20_000]);
    std::os::unix::fs::symlink("hosts", folder.join("tree/etc/link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(100), folder.join("tree/long")).unwrap();
}
