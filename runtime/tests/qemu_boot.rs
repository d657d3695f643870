//! Real guests in QEMU: what they do, and what is said of it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{VIRTIO_BLK, file_disk, judged, limits, memory_disk, parts, qemu, sample, sha256};
use rehost_block::{Memory, Overlay, Storage, StorageDisk};
use rehost_runtime::{
    Asked, Bus, Ended, Engine, EngineChoice, Firmware, Limits, Mac, Machine, MachineDisk,
    MachineNic, Neighbours, Next, NicModel, Outcome, Stage, Start, UefiImage, Verdict, Watch,
    choose,
};

/// A script's end: what a guest shows whose login prompt stands.
const LOGIN: &str = "printf '\\nDebian GNU/Linux 12 small ttyS0\\n\\nsmall login: '; sleep 1000";

#[test]
fn a_guest_on_virtio_blk_boots_and_what_it_writes_stays_in_the_overlay() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0x5a; 1 << 20]).unwrap();
    let before = sha256(file.path());
    let disk = file_disk(file.path(), Bus::VirtioBlk);
    let view = disk.disk.clone();
    let script = format!(
        "printf 'written by the guest' | dd of=/dev/vda bs=1 seek=4096 conv=notrunc 2>/dev/null; sync
         dd if=/dev/vda bs=1 skip=4090 count=26 2>/dev/null | tr -c 'a-z ' '?'; echo
         {LOGIN}"
    );
    let machine = parts.machine(&VIRTIO_BLK, &script, vec![disk]);
    let verdict = judged("virtio-blk", &machine, &engine, &limits(120));

    assert_eq!(verdict.outcome, Outcome::Booted, "{verdict:#?}");
    assert_eq!(verdict.stage, Stage::Login);
    assert_eq!(verdict.recogniser, Some("login-prompt"));
    assert_eq!(verdict.line.as_deref(), Some("small login:"));
    assert_eq!(verdict.ended, Ended::Watched);
    assert_eq!(verdict.engine, "qemu");
    assert!(verdict.saw("disk-virtio-blk"), "{verdict:#?}");
    assert!(
        verdict
            .tail
            .iter()
            .any(|line| line == "??????written by the guest")
    );
    let mut written = [0; 20];
    view.read_at(&mut written, 4096).unwrap();
    assert_eq!(&written, b"written by the guest");
    assert_eq!(sha256(file.path()), before);
}

#[test]
fn the_engine_that_auto_chooses_boots_a_guest_here() {
    let (Some(_), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let disk = memory_disk(vec![0; 1 << 20], Bus::VirtioBlk);
    let machine = parts.machine(&VIRTIO_BLK, LOGIN, vec![disk]);
    let chosen = choose(EngineChoice::Auto, &machine).unwrap();
    println!("{}", chosen.reason);
    let verdict = judged("auto", &machine, chosen.engine.as_ref(), &limits(120));
    assert!(verdict.booted(), "{verdict:#?}");
    assert!(verdict.saw("disk-virtio-blk"), "{verdict:#?}");
    // Either way the reason names /dev/kvm, whose self-test decided.
    assert!(chosen.reason.contains("/dev/kvm"), "{}", chosen.reason);
    assert_eq!(
        chosen.engine.name() == "kvm",
        chosen.reason.starts_with("the built-in engine")
    );
}

#[test]
fn a_guest_boots_with_disks_on_three_buses_in_their_order() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let disks = vec![
        memory_disk(vec![0; 3 << 20], Bus::Pvscsi),
        memory_disk(vec![0; 2 << 20], Bus::VirtioScsi),
        memory_disk(vec![0; 1 << 20], Bus::VirtioBlk),
    ];
    let mut modules = VIRTIO_BLK.to_vec();
    modules.extend([
        "scsi_common",
        "scsi_mod",
        "sd_mod",
        "vmw_pvscsi",
        "virtio_scsi",
    ]);
    let script = format!("sleep 2; cat /sys/block/?d?/size | tr '\\n' ' '; echo; {LOGIN}");
    let machine = parts.machine(&modules, &script, disks);
    let verdict = judged("three-buses", &machine, &engine, &limits(120));
    assert!(verdict.booted(), "{verdict:#?}");
    for id in [
        "disk-virtio-blk",
        "disk-virtio-scsi",
        "disk-pvscsi",
        "disk-scsi",
    ] {
        assert!(verdict.saw(id), "no {id}: {verdict:#?}");
    }
    assert!(
        verdict
            .tail
            .iter()
            .any(|line| line.trim() == "6144 4096 2048"),
        "{verdict:#?}"
    );
}

#[test]
fn a_guest_boots_with_disks_on_nvme_and_ide() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let disks = vec![
        memory_disk(vec![0; 3 << 20], Bus::Nvme),
        memory_disk(vec![0; 2 << 20], Bus::Ide),
        memory_disk(vec![0; 1 << 20], Bus::Ide),
        memory_disk(vec![0; 4 << 20], Bus::Ide),
    ];
    let modules = ["scsi_common", "scsi_mod", "sd_mod", "libata", "ata_piix"];
    let script = format!("sleep 3; cat /sys/block/[ns][vd]*/size | tr '\\n' ' '; echo; {LOGIN}");
    let machine = parts.machine(&modules, &script, disks);
    let verdict = judged("nvme-ide", &machine, &engine, &limits(120));
    assert!(verdict.booted(), "{verdict:#?}");
    for id in ["disk-nvme", "disk-ide", "disk-scsi"] {
        assert!(verdict.saw(id), "no {id}: {verdict:#?}");
    }
    assert!(
        verdict
            .tail
            .iter()
            .any(|line| line.trim() == "6144 4096 2048 8192"),
        "{verdict:#?}"
    );
}

#[test]
fn a_guest_that_boots_answers_for_its_addresses_on_a_wire_that_leads_nowhere() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let asked = |address: &str, vlan| Asked {
        address: address.parse().unwrap(),
        vlan,
    };
    let its = [
        asked("192.0.2.10", None),
        asked("2001:db8::12:3456", None),
        asked("192.0.2.130", Some(100)),
        asked("2001:db8:1::7", Some(100)),
    ];
    // Nobody has one, and the others are elsewhere.
    let nobodys = [
        asked("192.0.2.11", None),
        asked("192.0.2.130", None),
        asked("2001:db8:1::7", Some(101)),
    ];
    let asked = Arc::new(Neighbours::new(its.into_iter().chain(nobodys)));
    let mac: Mac = "00:0c:29:2e:c0:31".parse().unwrap();
    let script = format!(
        "ip link set eth0 up; ip addr add 192.0.2.10/25 dev eth0; ip addr add 2001:db8::12:3456/64 dev eth0; \
         ip link add link eth0 name eth0.100 type vlan id 100; ip link set eth0.100 up; \
         ip addr add 192.0.2.130/25 dev eth0.100; ip addr add 2001:db8:1::7/64 dev eth0.100; \
         echo 2 >/proc/sys/net/ipv4/conf/all/arp_ignore; sleep 6; {LOGIN}"
    );
    let mut machine = parts.machine(
        &["vmxnet3", "llc", "stp", "garp", "mrp", "8021q"],
        &script,
        Vec::new(),
    );
    machine.nics.push(MachineNic {
        model: NicModel::Vmxnet3,
        mac,
        wire: asked.clone(),
    });
    let verdict = judged("wire", &machine, &engine, &limits(120));
    assert!(verdict.booted(), "{verdict:#?}");
    for its in its {
        let card = asked.answer(its).map(|answer| answer.mac);
        assert_eq!(card, Some(mac), "{its:?}: {verdict:#?}");
    }
    for nobodys in nobodys {
        assert_eq!(asked.answer(nobodys), None);
    }
    assert!(!asked.all_answered());
}

#[test]
fn a_boot_whose_init_dies_is_a_kernel_panic() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let machine = parts.machine(&[], "exit 3\n", Vec::new());
    let verdict = judged("panic", &machine, &engine, &limits(120));
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert_eq!(verdict.recogniser, Some("kernel-init-died"));
    assert_eq!(verdict.stage, Stage::Initramfs);
    assert!(
        verdict.reason.contains("Attempted to kill init"),
        "{}",
        verdict.reason
    );
    assert_ne!(verdict.ended, Ended::TimedOut);
}

#[test]
fn a_boot_without_a_root_says_which_it_wanted() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let mut machine = parts.machine(&[], "", Vec::new());
    if let Start::Direct(start) = &mut machine.start {
        start.initrd = None;
        start.command_line.push_str(" root=/dev/vda1");
    }
    let verdict = judged("no-root", &machine, &engine, &limits(120));
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert_eq!(verdict.recogniser, Some("kernel-no-root"));
    assert!(
        verdict
            .reason
            .contains("VFS: Cannot open root device \"vda1\""),
        "{}",
        verdict.reason
    );
}

#[test]
fn a_boot_that_sleeps_times_out() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    let machine = parts.machine(&[], "echo sleeping; sleep 1000\n", Vec::new());
    let verdict = judged("sleep", &machine, &engine, &limits(20));
    assert_eq!(verdict.outcome, Outcome::TimedOut, "{verdict:#?}");
    assert_eq!(verdict.ended, Ended::TimedOut);
    assert_eq!(verdict.stage, Stage::Initramfs);
    assert!(
        verdict.tail.iter().any(|line| line == "sleeping"),
        "{verdict:#?}"
    );
    assert_eq!(verdict.recogniser, None);
}

#[test]
fn a_boot_that_powers_off_and_one_that_resets_are_told_apart() {
    let (Some(engine), Some(parts)) = (qemu(), parts()) else {
        return;
    };
    for (command, ended) in [("poweroff", Ended::PoweredOff), ("reboot", Ended::Reset)] {
        let machine = parts.machine(&[], &format!("{command} -f\n"), Vec::new());
        let verdict = judged(command, &machine, &engine, &limits(120));
        assert_eq!(verdict.ended, ended, "{verdict:#?}");
        assert_eq!(verdict.outcome, Outcome::Failed);
        assert!(
            verdict.reason.contains("before its login prompt"),
            "{}",
            verdict.reason
        );
    }
}

/// A boot sector that prints `text` through the firmware and stops.
fn boot_sector(text: &str) -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x15, 0x7c, // mov si, the text
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x06, // jz stop
        0xb4, 0x0e, // mov ah, teletype output
        0xcd, 0x10, // int 10h
        0xeb, 0xf5, // jmp next
        0xf4, // stop: hlt
        0xeb, 0xfd, // jmp stop
    ];
    sector.extend_from_slice(text.as_bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    sector
}

fn firmware(disk: MachineDisk) -> Machine {
    Machine {
        vcpus: 1,
        memory_mib: 128,
        disks: vec![disk],
        nics: Vec::new(),
        start: Start::Firmware(Firmware::Bios),
    }
}

#[test]
fn the_firmware_boots_a_disk_on_every_bus() {
    let Some(engine) = qemu() else { return };
    for bus in [Bus::Ahci, Bus::VirtioBlk, Bus::VirtioScsi, Bus::Pvscsi] {
        let machine = firmware(memory_disk(boot_sector("\r\nsector login: "), bus));
        let verdict = judged(&format!("firmware-{bus:?}"), &machine, &engine, &limits(60));
        assert!(verdict.booted(), "{bus:?}: {verdict:#?}");
        assert!(verdict.saw("seabios"));
        assert_eq!(verdict.line.as_deref(), Some("sector login:"));
    }
}

#[test]
fn the_firmware_cannot_boot_an_empty_disk() {
    let Some(engine) = qemu() else { return };
    let machine = firmware(memory_disk(vec![0; 1 << 20], Bus::VirtioBlk));
    let verdict = judged("firmware-empty", &machine, &engine, &limits(60));
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert_eq!(verdict.recogniser, Some("no-bootable-device"));
    assert!(
        verdict.reason.contains("not a bootable disk"),
        "{}",
        verdict.reason
    );
}

#[test]
fn uefi_finds_nothing_to_boot_on_an_empty_disk() {
    let Some(engine) = qemu() else { return };
    let Ok(image) = UefiImage::find() else {
        println!("skipped: needs ovmf");
        return;
    };
    let template = sha256(&image.nvram_template);
    let disk = memory_disk(vec![0; 1 << 20], Bus::VirtioBlk);
    let machine = Machine {
        memory_mib: 256,
        start: Start::Firmware(Firmware::Uefi(image.clone())),
        ..firmware(disk)
    };
    let verdict = judged("uefi-empty", &machine, &engine, &limits(120));
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert_eq!(verdict.recogniser, Some("uefi-shell"));
    assert!(verdict.saw("uefi-entry-failed"), "{verdict:#?}");
    // The machine's memory is its own.
    assert_eq!(sha256(&image.nvram_template), template);
}

#[test]
fn a_boot_from_a_disk_that_cannot_be_read_names_the_file() {
    let Some(engine) = qemu() else { return };
    /// A storage that is shorter than it says, as a file cut while in use.
    #[derive(Debug)]
    struct Cut(Memory);
    impl Storage for Cut {
        fn name(&self) -> &Path {
            self.0.name()
        }
        fn size(&self) -> u64 {
            1 << 20
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> rehost_block::Result<()> {
            self.0.read_at(buf, offset)
        }
    }
    let base = StorageDisk::new(Arc::new(Cut(Memory::new("cut.img", Vec::new()))));
    let disk = MachineDisk {
        disk: Arc::new(Overlay::in_memory(Arc::new(base))),
        bus: Bus::Ahci,
    };
    let verdict = judged("firmware-cut", &firmware(disk), &engine, &limits(60));
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert!(
        verdict.reason.contains("cut.img: file is truncated"),
        "{}",
        verdict.reason
    );
    assert!(matches!(verdict.ended, Ended::Failed(_)));
}

#[test]
fn a_boot_that_qemu_refuses_gives_its_own_words() {
    let Some(engine) = qemu() else { return };
    let mut machine = firmware(memory_disk(vec![0; 1 << 20], Bus::VirtioBlk));
    machine.memory_mib = u32::MAX;
    let verdict = judged("refused", &machine, &engine, &limits(60));
    assert_eq!(verdict.outcome, Outcome::Unclear, "{verdict:#?}");
    assert!(
        verdict.reason.contains("QEMU ended with"),
        "{}",
        verdict.reason
    );
    assert!(
        verdict.reason.to_lowercase().contains("memory"),
        "{}",
        verdict.reason
    );
}

/// Tells when the guest runs, and never has enough.
struct Started(bool);

impl Watch for Started {
    fn serial(&mut self, _: &[u8]) -> Next {
        if !self.0 {
            println!("guest runs");
            self.0 = true;
        }
        Next::Continue
    }
}

/// The environment variable that makes the test below run a guest, and names its mark.
const VICTIM: &str = "REHOST_TEST_VICTIM";

#[test]
fn a_boot_ends_when_its_parent_is_killed() {
    let Some(engine) = qemu() else { return };
    if std::env::var_os(VICTIM).is_some() {
        let machine = firmware(memory_disk(boot_sector("x"), Bus::VirtioBlk));
        engine
            .run(&machine, Duration::from_secs(120), &mut Started(false))
            .unwrap();
        return;
    }
    // Its folder for temporary files marks the QEMU it starts.
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().to_str().unwrap().to_owned();
    let serial = folder.path().join("said");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_boot_ends_when_its_parent_is_killed",
            "--nocapture",
        ])
        .env(VICTIM, "yes")
        .env("TMPDIR", folder.path())
        .stdout(File::create(&serial).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !std::fs::read_to_string(&serial)
        .unwrap()
        .contains("guest runs")
    {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "the guest never ran"
        );
        assert!(
            victim.try_wait().unwrap().is_none(),
            "the victim ended early"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(qemus(&mark), 1);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let killed = Instant::now();
    while qemus(&mark) > 0 {
        assert!(
            killed.elapsed() < Duration::from_secs(30),
            "QEMU outlived its parent"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How many running QEMUs have `mark` in their command line.
fn qemus(mark: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains("qemu-system") && line.contains(mark))
        .count()
}

/// The sample guest as it comes from VMware.
fn sample_verdict(name: &str, bus: Bus) -> Option<Verdict> {
    let (engine, sample) = (qemu()?, sample()?);
    let patient = Limits {
        total: Duration::from_secs(400),
        ..Limits::default()
    };
    Some(judged(name, &sample.machine(bus, ""), &engine, &patient))
}

#[test]
fn the_sample_guest_boots_on_the_bus_it_knows() {
    let Some(verdict) = sample_verdict("sample-pvscsi", Bus::Pvscsi) else {
        return;
    };
    assert!(verdict.booted(), "{verdict:#?}");
    assert_eq!(verdict.line.as_deref(), Some("vmguest login:"));
    for id in [
        "disk-pvscsi",
        "disk-scsi",
        "mounted-ext4",
        "welcome",
        "multi-user",
    ] {
        assert!(verdict.saw(id), "no {id}: {verdict:#?}");
    }
}

#[test]
fn the_sample_guest_drops_to_the_initramfs_shell_when_it_boots_on_virtio() {
    let Some(verdict) = sample_verdict("sample-virtio", Bus::VirtioBlk) else {
        return;
    };
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert_eq!(verdict.stage, Stage::Initramfs);
    assert_eq!(verdict.recogniser, Some("initramfs-shell"));
    assert_eq!(verdict.line.as_deref(), Some("(initramfs)"));
    assert!(
        verdict
            .reason
            .contains("does not exist.  Dropping to a shell!"),
        "{}",
        verdict.reason
    );
    assert!(!verdict.saw("disk-virtio-blk"));
}
