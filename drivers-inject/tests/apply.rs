//! Inspect, plan and apply on filesystems made by `mke2fs`, judged by `e2fsck` and `debugfs`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Disk, DiskMut, File, Overlay, StorageDisk};
use rehost_inject::apply::{Ledger, apply};
use rehost_inject::plan::{EditPlan, How, NetworkCard, PlanOptions, plan};
use rehost_inject::target::KVM;
use rehost_inspect::{Guest, Options, inspect};
use support::guest::Folder;
use support::{VERSION, ask, have, pack, run, tree};

const TOOLS: &[&str] = &[
    "cpio", "depmod", "mke2fs", "e2fsck", "debugfs", "xz", "zstd",
];
const SECTOR: u64 = 512;
const FIRST: u64 = 2048 * SECTOR;

/// A partition to be: its options for `mke2fs` and its size in MiB.
struct Part<'a> {
    options: &'a [&'a str],
    mib: u64,
    uuid: &'a str,
}

const ROOT: Part<'_> = Part {
    options: &["-t", "ext4"],
    mib: 24,
    uuid: "5c0f3f0e-9a53-4d0e-8f0b-6f1c8a0d2b12",
};

/// A disk image of `parts` with the files below the folders, in an MBR table.
fn image(folder: &Path, parts: &[(Part<'_>, &Path)]) -> PathBuf {
    let path = folder.join("disk.raw");
    let mut bytes = vec![0u8; 512];
    let mut start = FIRST;
    bytes[440..444].copy_from_slice(&0x7a1e_55edu32.to_le_bytes());
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    for (index, (part, files)) in parts.iter().enumerate() {
        let size = part.mib << 20;
        let entry = 446 + index * 16;
        bytes[entry + 4] = 0x83;
        bytes[entry + 8..entry + 12].copy_from_slice(&((start / SECTOR) as u32).to_le_bytes());
        bytes[entry + 12..entry + 16].copy_from_slice(&((size / SECTOR) as u32).to_le_bytes());
        let fs = folder.join(format!("part{index}"));
        let blocks = format!("{}k", size >> 10);
        let mut arguments = part.options.to_vec();
        let names = [
            files.to_str().unwrap().to_owned(),
            fs.to_str().unwrap().to_owned(),
        ];
        arguments.extend([
            "-q", "-F", "-U", part.uuid, "-d", &names[0], &names[1], &blocks,
        ]);
        ask("mke2fs", &arguments, b"");
        bytes.resize(start as usize, 0);
        bytes.extend(fs::read(&fs).unwrap());
        start += size;
    }
    fs::write(&path, bytes).unwrap();
    path
}

/// The files of a Debian guest that names its disk by bus, with an initramfs for VMware;
/// `squeeze` compresses that.
fn files(folder: &Path, squeeze: &[&str]) -> Folder {
    let files = Folder(folder.to_owned());
    tree(folder, "usr/lib", "", &|_| true);
    let initrd = tempfile::tempdir().unwrap();
    tree(initrd.path(), "usr/lib", "", &|path| {
        ["vmw_pvscsi", "sd_mod", "scsi_mod"]
            .iter()
            .any(|name| path.contains(name))
    });
    let inside = Folder(initrd.path().to_owned());
    inside.put("/init", "#!/bin/sh\n");
    inside.put("/scripts/init-top/ORDER", "\n");
    inside.put("/conf/initramfs.conf", "MODULES=list\n");
    inside.put("/usr/lib/systemd/systemd-udevd", vec![b'u'; 20_000]);
    let packed = ask(squeeze[0], &squeeze[1..], &pack(initrd.path()));
    files.put(&format!("/boot/initrd.img-{VERSION}"), packed);
    files.put(&format!("/boot/vmlinuz-{VERSION}"), "kernel");
    files.put(
        &format!("/boot/config-{VERSION}"),
        "CONFIG_RD_ZSTD=y\nCONFIG_RD_XZ=y\n",
    );
    files.put(
        "/etc/os-release",
        "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian\"\n",
    );
    files.put("/etc/fstab", "/dev/sda1 / ext4 errors=remount-ro 0 1\n");
    files.put(
        "/etc/network/interfaces",
        "auto ens192\niface ens192 inet dhcp\n",
    );
    files.put("/usr/lib/systemd/systemd", "\x7fELF");
    files.put("/usr/sbin/init", "\x7fELF");
    for name in ["bin", "sbin"] {
        fs::create_dir_all(folder.join("usr").join(name)).unwrap();
        std::os::unix::fs::symlink(format!("usr/{name}"), folder.join(name)).unwrap();
    }
    files.put(
        "/boot/grub/grub.cfg",
        format!(
            "menuentry 'Debian' {{\n\tlinux /boot/vmlinuz-{VERSION} root=/dev/sda1 ro\n\
             \tinitrd /boot/initrd.img-{VERSION}\n}}\n"
        ),
    );
    files
}

/// Not compressed leaves room; the best xz leaves none.
const LOOSE: &[&str] = &["cat"];
const TIGHT: &[&str] = &["xz", "-9e", "--check=crc32", "-c"];

struct Machine {
    base: Vec<u8>,
    image: PathBuf,
    overlay: Arc<Overlay>,
    guest: Guest,
}

impl Machine {
    fn new(image: PathBuf) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(StorageDisk::new(Arc::new(File::open(&image).unwrap())));
        let overlay = Arc::new(Overlay::in_memory(disk));
        let seen: Arc<dyn Disk> = overlay.clone();
        let guest = inspect(&[seen], &Options::default()).unwrap();
        Self {
            base: fs::read(&image).unwrap(),
            image,
            overlay,
            guest,
        }
    }

    fn plan(&self) -> EditPlan {
        let options = PlanOptions {
            cards: vec![NetworkCard {
                mac: "00:0c:29:aa:bb:cc".into(),
                old_name: Some("ens192".into()),
            }],
            ..PlanOptions::default()
        };
        plan(
            &self.guest.inspection,
            self.guest.tree().unwrap(),
            &KVM,
            &options,
        )
        .unwrap()
    }

    fn apply(&self, plan: &EditPlan) -> rehost_block::Result<Ledger> {
        let disks = [self.overlay.clone() as Arc<dyn DiskMut>];
        apply(plan, &self.guest.inspection, &disks, &[])
    }

    /// The edited disk as an image, and each of its partitions found clean by `e2fsck`; the
    /// original is as it was.
    fn edited(&self) -> (Self, Vec<PathBuf>) {
        assert_eq!(
            fs::read(&self.image).unwrap(),
            self.base,
            "the source is untouched"
        );
        let mut bytes = vec![0; self.base.len()];
        self.overlay.read_at(&mut bytes, 0).unwrap();
        let image = self.image.with_extension("edited");
        fs::write(&image, &bytes).unwrap();
        let parts = self.guest.inspection.disks[0]
            .layout
            .volumes
            .iter()
            .map(|volume| {
                let path = image.with_extension(format!("part{}", volume.number));
                let range = volume.range.start as usize..volume.range.end as usize;
                fs::write(&path, &bytes[range]).unwrap();
                let judged = run("e2fsck", &["-fn", path.to_str().unwrap()], b"");
                assert!(
                    judged.status.success(),
                    "{}{}",
                    String::from_utf8_lossy(&judged.stdout),
                    String::from_utf8_lossy(&judged.stderr)
                );
                path
            })
            .collect();
        (Self::new(image), parts)
    }
}

/// What `debugfs` reads at `path`.
fn debugfs(part: &Path, path: &str) -> Vec<u8> {
    let out = part.with_extension("dump");
    let command = format!("dump {path} {}", out.display());
    ask("debugfs", &["-R", &command, part.to_str().unwrap()], b"");
    fs::read(out).unwrap()
}

/// Plans, applies, and lets `debugfs` and a second plan judge.
fn convert(machine: &Machine) -> (EditPlan, Ledger, Vec<PathBuf>) {
    let plan = machine.plan();
    let ledger = machine.apply(&plan).unwrap();
    let (after, parts) = machine.edited();
    for edit in &plan.edits {
        let part = &parts[edit.at.volume as usize - 1];
        assert_eq!(
            debugfs(part, &edit.inner_path),
            *edit.content,
            "{}",
            edit.path
        );
    }
    let again = after.plan();
    assert!(again.is_empty(), "converted twice: {again}");
    (plan, ledger, parts)
}

#[test]
fn a_guest_is_converted_in_place_and_its_filesystem_stays_clean() {
    if !have(TOOLS) {
        return;
    }
    let (root, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    files(root.path(), LOOSE);
    let machine = Machine::new(image(work.path(), &[(ROOT, root.path())]));
    let (plan, ledger, _) = convert(&machine);
    let initrd = &plan.edits[0];
    assert_eq!(initrd.how, How::Overwrite, "{plan}");
    // Nothing but the file's own blocks was written for it.
    let bytes: u64 = ledger.files[0]
        .ranges
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    let size = initrd.after.as_ref().unwrap().size;
    assert!(
        (size..size + 4096).contains(&bytes),
        "{bytes} bytes for {size}"
    );
    let paths: Vec<&str> = plan.edits.iter().map(|edit| edit.path.as_str()).collect();
    assert_eq!(
        paths[1..],
        [
            "/boot/grub/grub.cfg",
            "/etc/fstab",
            "/etc/systemd/network/10-rehost-ens192.link"
        ],
        "{plan}"
    );
    assert!(ledger.replayed.is_empty());
    assert_eq!(ledger.files.len(), plan.edits.len());
    assert!(
        serde_json::to_string(&ledger)
            .unwrap()
            .contains("overwrite")
    );
}

#[test]
fn an_initramfs_that_does_not_fit_gets_new_blocks() {
    if !have(TOOLS) {
        return;
    }
    for options in [
        &["-t", "ext4", "-b", "1024"][..],
        &["-t", "ext4", "-O", "^metadata_csum,^64bit"],
        &["-t", "ext3"],
        &["-t", "ext2"],
    ] {
        let (root, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        files(root.path(), TIGHT);
        let machine = Machine::new(image(
            work.path(),
            &[(Part { options, ..ROOT }, root.path())],
        ));
        let (plan, ledger, _) = convert(&machine);
        assert_eq!(plan.edits[0].how, How::Allocate, "{options:?}: {plan}");
        assert!(
            ledger.files[0].after.as_ref().unwrap().size
                > ledger.files[0].before.as_ref().unwrap().size
        );
    }
}

#[test]
fn boot_on_a_filesystem_of_its_own_is_edited_there() {
    if !have(TOOLS) {
        return;
    }
    let (root, boot) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let work = tempfile::tempdir().unwrap();
    let guest = files(root.path(), LOOSE);
    for entry in fs::read_dir(root.path().join("boot")).unwrap() {
        let from = entry.unwrap().path();
        fs::rename(&from, boot.path().join(from.file_name().unwrap())).unwrap();
    }
    guest.put(
        "/etc/fstab",
        "/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 /boot ext4 defaults 0 2\n",
    );
    Folder(boot.path().to_owned()).put(
        "/grub/grub.cfg",
        format!(
            "menuentry 'Debian' {{\n\tlinux /vmlinuz-{VERSION} root=/dev/sda1 ro\n\
             \tinitrd /initrd.img-{VERSION}\n}}\n"
        ),
    );
    let second = Part {
        uuid: "11111111-2222-3333-4444-555555555555",
        mib: 8,
        ..ROOT
    };
    let machine = Machine::new(image(
        work.path(),
        &[(ROOT, root.path()), (second, boot.path())],
    ));
    let (plan, _, parts) = convert(&machine);
    let initrd = &plan.edits[0];
    assert_eq!(
        (initrd.at.volume, initrd.inner_path.as_str()),
        (2, format!("/initrd.img-{VERSION}").as_str())
    );
    let fstab = String::from_utf8(debugfs(&parts[0], "/etc/fstab")).unwrap();
    assert_eq!(
        fstab,
        "UUID=5c0f3f0e-9a53-4d0e-8f0b-6f1c8a0d2b12 / ext4 defaults 0 1\n\
         UUID=11111111-2222-3333-4444-555555555555 /boot ext4 defaults 0 2\n"
    );
}

#[test]
fn a_guest_that_changed_since_the_plan_is_not_touched() {
    if !have(TOOLS) {
        return;
    }
    let (root, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    files(root.path(), LOOSE);
    let machine = Machine::new(image(work.path(), &[(ROOT, root.path())]));
    let plan = machine.plan();
    // The text is on the disk once, in the file's own block.
    let old = b"/dev/sda1 / ext4 errors";
    let at = machine
        .base
        .windows(old.len())
        .position(|window| window == old)
        .unwrap();
    machine.overlay.write_at(b"/dev/sdb1", at as u64).unwrap();
    let written = machine.overlay.written();
    let error = machine.apply(&plan).unwrap_err();
    assert_eq!(error.kind(), rehost_block::Kind::Usage);
    assert!(error.to_string().starts_with("/etc/fstab: "), "{error}");
    assert_eq!(machine.overlay.written(), written, "nothing was written");
}

#[test]
fn a_plan_for_another_machine_is_refused() {
    if !have(TOOLS) {
        return;
    }
    let (root, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    files(root.path(), LOOSE);
    let machine = Machine::new(image(work.path(), &[(ROOT, root.path())]));
    let mut plan = machine.plan();
    plan.edits[0].at.volume = 7;
    let error = machine.apply(&plan).unwrap_err();
    assert!(error.to_string().contains("partition 7"), "{error}");
    assert!(machine.overlay.written().is_empty());
}
