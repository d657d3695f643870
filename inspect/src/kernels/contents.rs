//! What is inside an initramfs: who made it and how, its modules, and the files that fix a device.

use crate::initramfs::Initramfs;
use crate::model::{Generator, InitramfsFound, InitramfsHint, SegmentFound};

/// Files inside an initramfs that fix a root or resume device.
const HINTS: [&str; 6] = [
    "conf/param.conf",
    "conf/conf.d/resume",
    "conf/conf.d/zz-resume-auto",
    "etc/fstab",
    "etc/crypttab",
    "etc/lvm/devices/system.devices",
];

/// Largest hint that is kept. Ours.
const MOST_HINT: usize = 64 << 10;

/// Images in which dracut packs most of its files (its modules `squash`, `squash-erofs`).
const SQUASHED: [&str; 4] = [
    "squashfs-root.img",
    "squash-root.img",
    "squash/root.img",
    "erofs-root.img",
];

/// An initramfs of which only the place is known.
pub(crate) fn unread(path: &str, size: u64) -> InitramfsFound {
    InitramfsFound {
        path: path.to_owned(),
        size,
        generator: Generator::Unknown,
        segments: Vec::new(),
        modules: Vec::new(),
        host_only: None,
        squashed: None,
        hints: Vec::new(),
        error: None,
    }
}

/// What `initramfs` holds for kernel `version`.
pub(crate) fn describe(
    initramfs: &Initramfs,
    path: &str,
    version: &str,
    size: u64,
) -> InitramfsFound {
    let segments = initramfs.segments().iter().map(|segment| SegmentFound {
        offset: segment.offset,
        len: segment.len,
        compression: segment.compression.name().to_owned(),
        entries: u64::try_from(segment.entries.len()).unwrap_or(u64::MAX),
    });
    let mut modules: Vec<String> = initramfs
        .modules(version)
        .into_iter()
        .map(|module| module.name.as_str().to_owned())
        .collect();
    modules.sort();
    modules.dedup();
    let generator = generator(initramfs);
    InitramfsFound {
        segments: segments.collect(),
        modules,
        generator,
        host_only: host_only(initramfs, generator),
        squashed: SQUASHED
            .into_iter()
            .find(|path| initramfs.read(path.as_bytes()).is_some())
            .map(str::to_owned),
        hints: hints(initramfs),
        ..unread(path, size)
    }
}

/// Whether it was made for one machine only, by what its generator leaves inside.
fn host_only(initramfs: &Initramfs, generator: Generator) -> Option<bool> {
    match generator {
        Generator::Dracut => {
            // dracut.sh: written only where hostonly is on.
            let marks = ["hostonly-kernel-modules.txt", "hostonly-files"];
            Some(marks.iter().any(|mark| {
                ["usr/lib/dracut", "lib/dracut"].iter().any(|folder| {
                    initramfs
                        .read(format!("{folder}/{mark}").as_bytes())
                        .is_some()
                })
            }))
        }
        Generator::InitramfsTools => {
            let text = initramfs.text("conf/initramfs.conf")?;
            let value = text
                .lines()
                .rev()
                .find_map(|line| line.trim().strip_prefix("MODULES="))?;
            Some(matches!(value.trim_matches(['"', '\'']), "dep" | "list"))
        }
        Generator::Mkinitcpio | Generator::Mkinitfs | Generator::Mkinitrd | Generator::Unknown => {
            None
        }
    }
}

/// What made it, by files that only that generator leaves.
fn generator(initramfs: &Initramfs) -> Generator {
    let has = |path: &str| initramfs.read(path.as_bytes()).is_some();
    if has("conf/initramfs.conf") || has("scripts/functions") {
        Generator::InitramfsTools
    } else if [
        "usr/lib/dracut/build-parameter.txt",
        "lib/dracut/build-parameter.txt",
        "usr/lib/dracut-lib.sh",
        "lib/dracut-lib.sh",
    ]
    .iter()
    .any(|path| has(path))
        || initramfs.is_directory(b"usr/lib/dracut/hooks")
        || initramfs.is_directory(b"lib/dracut/hooks")
    {
        Generator::Dracut
    } else if has("init_functions") && has("config") {
        Generator::Mkinitcpio
    } else if has("init") && has("bin/busybox") && initramfs.node(b"etc/mkinitfs").is_some()
        || has("sbin/nlplug-findfs")
    {
        Generator::Mkinitfs
    } else if has("run_all.sh") || has("mkinitrd.config") || is_nash(initramfs) {
        Generator::Mkinitrd
    } else {
        Generator::Unknown
    }
}

/// Whether its init is a script for Red Hat's nash.
fn is_nash(initramfs: &Initramfs) -> bool {
    initramfs.text("init").is_some_and(|init| {
        let first = init.lines().next().unwrap_or_default();
        first.starts_with("#!") && first.contains("nash")
    })
}

/// The files inside that fix a root or resume device.
fn hints(initramfs: &Initramfs) -> Vec<InitramfsHint> {
    let cmdline = initramfs.files().filter_map(|(path, _)| {
        let path = std::str::from_utf8(path).ok()?;
        let below = |folder: &str| path.strip_prefix(folder).is_some_and(|n| !n.contains('/'));
        (below("etc/cmdline.d/") || below("conf/conf.d/")).then(|| path.to_owned())
    });
    let mut paths: Vec<String> = HINTS.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(cmdline);
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter_map(|path| {
            let text = initramfs.text(&path)?;
            (text.len() <= MOST_HINT && !text.trim().is_empty()).then(|| InitramfsHint {
                text: text.into_owned(),
                path,
            })
        })
        .collect()
}
