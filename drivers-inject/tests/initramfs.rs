//! Initramfs files made by `cpio` and foreign compressors, rebuilt here, judged by `cpio`, `modprobe`
//! and the compressors again.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rehost_inject::initramfs::{Override, Rebuilt, Unpackers, Wanted, rebuild};
use rehost_inspect::initramfs::{Compression, Initramfs};
use rehost_inspect::modules::ModuleName;
use support::{VERSION, ask, depmod, have, modprobe, pack, plain, run, tree, unpack};

const TOOLS: &[&str] = &[
    "cpio", "depmod", "modprobe", "xz", "zstd", "gzip", "lz4", "bzip2",
];

/// Compresses and decompresses as the tools that make initramfs files do.
const FORMATS: &[(Compression, &str, &[&str], &[&str])] = &[
    (Compression::Gzip, "gzip", &["-9nc"], &["-dcq"]),
    (Compression::Xz, "xz", &["--check=crc32", "-c"], &["-dcq"]),
    (
        Compression::Lzma,
        "xz",
        &["--format=lzma", "-c"],
        &["-dcq", "--format=lzma"],
    ),
    (Compression::Bzip2, "bzip2", &["-c"], &["-dcq"]),
    (Compression::Lz4, "lz4", &["-lqc", "-9"], &["-dcq"]),
    (Compression::Zstd, "zstd", &["-9qc"], &["-dcq"]),
];

fn names(list: &[&str]) -> Vec<ModuleName> {
    list.iter().map(|name| ModuleName::new(name)).collect()
}

fn virtio() -> Vec<ModuleName> {
    names(&[
        "virtio_pci",
        "virtio-blk",
        "virtio_scsi",
        "virtio_net",
        "sd_mod",
    ])
}

fn vmware_only(path: &str) -> bool {
    ["vmw_pvscsi", "sd_mod", "scsi_mod"]
        .iter()
        .any(|name| path.contains(name))
}

/// What an initramfs of a guest on VMware looks like: merged `/usr`, VMware's drivers, some files.
fn vmware_root(root: &Path, suffix: &str) {
    fs::create_dir_all(root.join("conf/conf.d")).unwrap();
    fs::write(root.join("conf/conf.d/resume"), "RESUME=/dev/sda5\n").unwrap();
    fs::write(root.join("init"), "#!/bin/sh\n".repeat(2000)).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    // Two names for one file.
    fs::write(root.join("usr/bin/busybox"), vec![0x90; 40_000]).unwrap();
    fs::hard_link(root.join("usr/bin/busybox"), root.join("usr/bin/sh")).unwrap();
    tree(root, "usr/lib", suffix, &vmware_only);
}

fn reader(folder: &Path) -> impl Fn(&str) -> rehost_block::Result<Option<Vec<u8>>> {
    let folder = folder.to_owned();
    move |path| Ok(fs::read(folder.join(path)).ok())
}

fn rebuilt(old: Vec<u8>, folder: &Path, overrides: &[Override], config: &str) -> Option<Rebuilt> {
    let unpackers = Unpackers::from_config(config);
    let wanted = Wanted {
        version: VERSION,
        modules: &virtio(),
        optional: &names(&["virtio_rng", "virtio_console"]),
        overrides,
        unpackers: (!config.is_empty()).then_some(&unpackers),
    };
    rebuild(&Initramfs::parse(old).unwrap(), &wanted, &reader(folder)).unwrap()
}

#[test]
fn every_format_is_read_as_cpio_reads_it() {
    if !have(TOOLS) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    vmware_root(root.path(), "");
    let plain = pack(root.path());
    let listed = String::from_utf8(ask("cpio", &["--quiet", "-t"], &plain)).unwrap();
    let mut early = pack(tempfile::tempdir().unwrap().path());
    early.resize(early.len().next_multiple_of(512), 0);
    for (compression, tool, squeeze, _) in FORMATS {
        let mut file = early.clone();
        file.extend(ask(tool, squeeze, &plain));
        file.extend([0; 99]);
        let parsed = Initramfs::parse(file).unwrap();
        assert_eq!(parsed.segments().len(), 2, "{compression:?}");
        assert_eq!(parsed.segments()[1].compression, *compression);
        assert_eq!(parsed.plain(1), plain, "{compression:?}");
        let entries = &parsed.segments()[1].entries;
        let paths: Vec<_> = entries
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path))
            .collect();
        assert_eq!(paths.join("\n"), listed.trim_end(), "{compression:?}");
        for (path, _) in parsed
            .files()
            .filter(|(_, node)| node.kind == rehost_fs::FileKind::Regular)
        {
            let name = std::str::from_utf8(path).unwrap();
            assert_eq!(
                parsed.read(path).unwrap(),
                fs::read(root.path().join(name)).unwrap(),
                "{name}"
            );
        }
        assert_eq!(parsed.versions(), [VERSION]);
    }
}

#[test]
fn the_cpio_crate_reads_the_supplement() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    vmware_root(initrd.path(), "");
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    let built = rebuilt(pack(initrd.path()), &folder, &[], "").unwrap();
    let parsed = Initramfs::parse(built.content).unwrap();
    let all = plain(&parsed);
    let mut rest = &all[..];
    let mut count = 0;
    while rest.iter().any(|byte| *byte != 0) {
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
        let entry = cpio::newc::Reader::new(&rest[zeroes..]).unwrap();
        count += usize::from(!entry.entry().is_trailer());
        rest = entry.finish().unwrap();
    }
    let entries = parsed
        .segments()
        .iter()
        .map(|segment| segment.entries.len());
    assert_eq!(count, entries.sum::<usize>());
}

/// The heart of it: an initramfs with VMware's drivers alone, of every format, gets virtio, and the
/// guest's own `modprobe` finds it.
#[test]
fn virtio_goes_into_every_format_and_modprobe_finds_it() {
    if !have(TOOLS) {
        return;
    }
    for suffix in ["", ".xz"] {
        let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        vmware_root(initrd.path(), suffix);
        let folder = tree(guest.path(), "usr/lib", suffix, &|_| true);
        let plain = pack(initrd.path());
        for (compression, tool, squeeze, unsqueeze) in FORMATS {
            // A microcode archive first.
            let microcode = tempfile::tempdir().unwrap();
            fs::create_dir_all(microcode.path().join("kernel/x86/microcode")).unwrap();
            fs::write(
                microcode.path().join("kernel/x86/microcode/m.bin"),
                [7; 3000],
            )
            .unwrap();
            let mut old = pack(microcode.path());
            let head = old.clone();
            old.extend(ask(tool, squeeze, &plain));
            let change = Override {
                path: "conf/conf.d/resume".into(),
                content: b"RESUME=UUID=x\n".to_vec(),
            };
            let link = Override {
                path: "etc/systemd/network/10-a.link".into(),
                content: b"[Match]\n".to_vec(),
            };
            let built = rebuilt(old.clone(), &folder, &[change, link], "").unwrap();
            assert_eq!(built.compression, *compression);
            assert!(
                built.content.starts_with(&head),
                "microcode stays as it was"
            );
            let packed = &built.content[head.len()..usize::try_from(built.packed).unwrap()];
            let joined = ask(tool, unsqueeze, packed);
            assert!(joined.starts_with(&plain));
            let out = tempfile::tempdir().unwrap();
            unpack(out.path(), &joined);
            assert!(
                out.path().join("lib").is_symlink(),
                "lib -> usr/lib survives"
            );
            assert!(
                out.path()
                    .join("usr/lib/modules")
                    .join(VERSION)
                    .join(format!("kernel/drivers/block/virtio_blk.ko{suffix}"))
                    .exists()
            );
            assert_eq!(
                fs::read(out.path().join("conf/conf.d/resume")).unwrap(),
                b"RESUME=UUID=x\n"
            );
            for alias in [
                "virtio:d00000002v00001AF4",
                "virtio:d00000008v00001AF4",
                "virtio:d00000001v00001AF4",
                "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
                "pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc07i00",
                "scsi:t-0x00",
            ] {
                let found = modprobe(out.path(), alias);
                assert!(!found.is_empty(), "{alias} in {compression:?}");
                assert_eq!(
                    found,
                    modprobe(guest.path(), alias),
                    "{alias} in {compression:?}"
                );
            }
            // depmod over what was unpacked says the same as our indexes.
            let index = |name: &str| {
                let bytes =
                    fs::read(out.path().join("usr/lib/modules").join(VERSION).join(name)).unwrap();
                let entries = rehost_inspect::modules::index::read(&bytes).unwrap();
                entries
                    .into_iter()
                    .map(|entry| (entry.key, entry.value))
                    .collect::<std::collections::BTreeSet<_>>()
            };
            let files = ["modules.alias.bin", "modules.symbols.bin"];
            let ours = files.map(index);
            depmod(out.path());
            assert_eq!(ours, files.map(index), "{compression:?}");
        }
    }
}

#[test]
fn modules_of_a_plain_image_are_unpacked_when_the_guest_has_them_compressed() {
    if !have(TOOLS) {
        return;
    }
    // Debian's depmod is built without zlib, so not `.gz`.
    for suffix in [".xz", ".zst"] {
        let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        vmware_root(initrd.path(), "");
        let folder = tree(guest.path(), "usr/lib", suffix, &|_| true);
        let old = ask("gzip", &["-9nc"], &pack(initrd.path()));
        let built = rebuilt(old, &folder, &[], "").unwrap();
        assert!(
            built
                .added
                .iter()
                .all(|module| module.path.ends_with(".ko")),
            "{:?}",
            built.added
        );
        let parsed = Initramfs::parse(built.content).unwrap();
        let path = format!("lib/modules/{VERSION}/kernel/drivers/block/virtio_blk.ko");
        let blk = support::MODULES
            .iter()
            .find(|module| module.path.contains("virtio_blk"))
            .unwrap();
        assert_eq!(
            parsed.read(path.as_bytes()),
            Some(support::elf(blk).as_slice())
        );
    }
}

#[test]
fn an_image_without_text_indexes_keeps_what_its_binary_ones_said() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    vmware_root(initrd.path(), "");
    for name in ["modules.dep", "modules.alias", "modules.symbols"] {
        fs::remove_file(
            initrd
                .path()
                .join("usr/lib/modules")
                .join(VERSION)
                .join(name),
        )
        .unwrap();
    }
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    let built = rebuilt(pack(initrd.path()), &folder, &[], "CONFIG_RD_ZSTD=y\n").unwrap();
    assert_eq!(built.compression, Compression::Zstd);
    let out = tempfile::tempdir().unwrap();
    unpack(
        out.path(),
        &plain(&Initramfs::parse(built.content).unwrap()),
    );
    let alias = "pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc07i00";
    assert_eq!(
        modprobe(out.path(), alias),
        ["scsi_mod.ko", "vmw_pvscsi.ko"]
    );
}

#[test]
fn modules_that_lie_there_without_an_index_get_one() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let inside = tree(initrd.path(), "usr/lib", "", &|_| true);
    for entry in fs::read_dir(&inside).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    let built = rebuilt(pack(initrd.path()), &folder, &[], "").unwrap();
    assert!(built.added.is_empty());
    let out = tempfile::tempdir().unwrap();
    unpack(
        out.path(),
        &plain(&Initramfs::parse(built.content).unwrap()),
    );
    assert_eq!(modprobe(out.path(), "virtio_blk").len(), 3);
}

#[test]
fn an_image_that_has_everything_is_left_alone() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(initrd.path(), "usr/lib", "", &|_| true);
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    assert!(rebuilt(pack(initrd.path()), &folder, &[], "").is_none());
    // And what was rebuilt once has everything.
    let poor = tempfile::tempdir().unwrap();
    vmware_root(poor.path(), "");
    let built = rebuilt(pack(poor.path()), &folder, &[], "").unwrap();
    assert!(rebuilt(built.content, &folder, &[], "").is_none());
}

#[test]
fn a_rebuilt_image_that_fits_is_exactly_as_long_as_the_old_one() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    vmware_root(initrd.path(), "");
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    let config = "CONFIG_RD_ZSTD=y\nCONFIG_RD_XZ=y\nCONFIG_RD_GZIP=y\n";
    // Uncompressed before: anything fits.
    let old = pack(initrd.path());
    let built = rebuilt(old.clone(), &folder, &[], config).unwrap();
    assert!(built.fits);
    assert_eq!(built.content.len(), old.len());
    assert!(built.packed < old.len() as u64);
    assert!(
        run(
            "zstd",
            &["-tq"],
            &built.content[..usize::try_from(built.packed).unwrap()]
        )
        .status
        .success()
    );
    // Noise does not compress: it does not fit, and the file is whole all the same.
    let tight = ask("xz", &["-9e", "--check=crc32", "-c"], &old);
    let built = rebuilt(tight.clone(), &folder, &[], "").unwrap();
    assert!(!built.fits && built.content.len() > tight.len());
    assert_eq!(built.content.len() as u64, built.packed);
}

#[test]
fn a_kernel_without_a_driver_is_told_and_the_rest_goes_in() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    vmware_root(initrd.path(), "");
    let folder = tree(guest.path(), "usr/lib", "", &|path| {
        !path.contains("virtio_scsi")
    });
    let built = rebuilt(pack(initrd.path()), &folder, &[], "").unwrap();
    assert_eq!(built.missing, names(&["virtio_scsi"]));
    assert!(
        built
            .added
            .iter()
            .any(|module| module.name.as_str() == "virtio_blk")
    );
}

#[test]
fn a_module_file_that_is_gone_is_an_error_that_names_it() {
    if !have(TOOLS) {
        return;
    }
    let (initrd, guest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    vmware_root(initrd.path(), "");
    let folder = tree(guest.path(), "usr/lib", "", &|_| true);
    fs::remove_file(folder.join("kernel/drivers/virtio/virtio_ring.ko")).unwrap();
    let old = Initramfs::parse(pack(initrd.path())).unwrap();
    let wanted = Wanted {
        version: VERSION,
        modules: &virtio(),
        ..Wanted::default()
    };
    let error = rebuild(&old, &wanted, &reader(&folder)).unwrap_err();
    assert!(error.to_string().contains("virtio_ring.ko"), "{error}");
}

#[test]
fn modules_hidden_in_a_squashfs_are_refused_by_name() {
    if !have(&["cpio"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("squash-root.img"), b"hsqs").unwrap();
    let old = Initramfs::parse(pack(root.path())).unwrap();
    let error = rebuild(&old, &Wanted::default(), &|_| Ok(None)).unwrap_err();
    assert!(error.to_string().contains("squash-root.img"), "{error}");
}

#[test]
fn a_module_tree_that_would_fill_the_memory_is_refused() {
    if !have(&["cpio"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let old = Initramfs::parse(pack(root.path())).unwrap();
    let wanted = Wanted {
        version: VERSION,
        modules: &names(&["virtio_blk"]),
        ..Wanted::default()
    };
    let huge_module = |path: &str| {
        Ok(match path {
            "modules.dep" => Some(b"k/virtio_blk.ko: k/a.ko\nk/a.ko:\n".to_vec()),
            path if path.ends_with(".ko") => Some(vec![0; 200 << 20]),
            _ => None,
        })
    };
    let error = rebuild(&old, &wanted, &huge_module).unwrap_err();
    assert!(
        error.to_string().contains("more than 268435456 bytes"),
        "{error}"
    );
    let huge_index = |path: &str| Ok((path == "modules.alias").then(|| vec![b'\n'; 65 << 20]));
    let error = rebuild(&old, &wanted, &huge_index).unwrap_err();
    assert!(error.to_string().contains("modules.alias"), "{error}");
}
