//! Verdicts on recorded serial consoles, played by an engine that runs nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use rehost_block::Result;
use rehost_runtime::{
    Ended, Engine, Firmware, Limits, Machine, Next, Outcome, Stage, Start, Verdict, Watch, boot,
};

/// Plays bytes, then waits in silence until the watcher stops it, then ends as told.
#[derive(Debug)]
struct Player {
    bytes: Vec<u8>,
    ended: Ended,
}

impl Engine for Player {
    fn name(&self) -> &'static str {
        "player"
    }

    fn run(&self, _: &Machine, limit: Duration, watch: &mut dyn Watch) -> Result<Ended> {
        for chunk in self.bytes.chunks(100) {
            if watch.serial(chunk) == Next::Stop {
                return Ok(Ended::Watched);
            }
        }
        if self.ended != Ended::TimedOut {
            return Ok(self.ended.clone());
        }
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            if watch.idle() == Next::Stop {
                return Ok(Ended::Watched);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Ended::TimedOut)
    }
}

/// Short times, so that silence decides soon.
fn limits() -> Limits {
    Limits {
        total: Duration::from_secs(20),
        login: Duration::from_millis(200),
        stuck: Duration::from_millis(200),
        linger: Duration::from_millis(50),
    }
}

fn play(bytes: &[u8], ended: Ended, limits: &Limits) -> Verdict {
    let machine = Machine {
        vcpus: 1,
        memory_mib: 1,
        disks: Vec::new(),
        nics: Vec::new(),
        start: Start::Firmware(Firmware::Bios),
    };
    let player = Player {
        bytes: bytes.to_vec(),
        ended,
    };
    let mut live = Vec::new();
    let verdict = boot(&machine, &player, limits, Some(&mut live)).unwrap();
    assert!(bytes.starts_with(&live), "the live copy differs");
    verdict
}

fn recording(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    std::fs::read(folder.join(format!("{name}.serial"))).unwrap()
}

#[test]
fn every_recording_has_its_verdict() {
    use Outcome::{Booted, Failed, Unclear};
    use Stage::{BootLoader, Firmware, Init, Initramfs, Login, Nothing, Services};
    for (name, outcome, stage, recogniser, line) in [
        (
            "debian12-login",
            Booted,
            Login,
            "login-prompt",
            "vmguest login:",
        ),
        (
            "sysv-login",
            Booted,
            Login,
            "login-prompt",
            "old-box.example.org login:",
        ),
        (
            "login-after-noise",
            Booted,
            Login,
            "login-prompt",
            "guest login:",
        ),
        (
            "multi-user-without-login",
            Unclear,
            Services,
            "multi-user",
            "Reached target multi-user.target",
        ),
        (
            "initramfs-shell",
            Failed,
            Initramfs,
            "initramfs-shell",
            "(initramfs)",
        ),
        (
            "initramfs-shell-quiet",
            Failed,
            Firmware,
            "initramfs-shell",
            "(initramfs)",
        ),
        (
            "dracut-emergency",
            Failed,
            Initramfs,
            "initramfs-emergency",
            "Entering emergency mode.",
        ),
        (
            "alpine-shell",
            Failed,
            Initramfs,
            "alpine-shell",
            "emergency recovery shell",
        ),
        (
            "alpine-3.23-shell",
            Failed,
            Initramfs,
            "alpine-shell",
            "Launching initramfs emergency recovery shell.",
        ),
        (
            "login-without-name",
            Booted,
            Login,
            "login-prompt",
            "(none) login:",
        ),
        (
            "passphrase",
            Failed,
            Initramfs,
            "passphrase",
            "Please unlock disk vda5_crypt:",
        ),
        (
            "passphrase-own-line",
            Failed,
            Initramfs,
            "passphrase",
            "Please unlock disk vda5_crypt:",
        ),
        (
            "systemd-emergency",
            Failed,
            Firmware,
            "emergency-mode",
            "You are in emergency mode",
        ),
        (
            "systemd-rescue",
            Failed,
            Firmware,
            "rescue-mode",
            "You are in rescue mode",
        ),
        (
            "systemd-fstab-device",
            Failed,
            Init,
            "emergency-mode",
            "You are in emergency mode",
        ),
        (
            "kernel-no-root",
            Failed,
            Nothing,
            "kernel-no-root",
            "Unable to mount root fs",
        ),
        (
            "kernel-init-died",
            Failed,
            Initramfs,
            "kernel-init-died",
            "Attempted to kill init",
        ),
        (
            "grub-rescue",
            Failed,
            BootLoader,
            "grub-rescue",
            "grub rescue>",
        ),
        (
            "seabios-empty-disk",
            Failed,
            Firmware,
            "no-bootable-device",
            "No bootable device.",
        ),
        ("uefi-shell", Failed, Nothing, "uefi-shell", "Shell>"),
    ] {
        let verdict = play(&recording(name), Ended::TimedOut, &limits());
        assert_eq!(verdict.outcome, outcome, "{name}: {verdict:#?}");
        assert_eq!(verdict.recogniser, Some(recogniser), "{name}: {verdict:#?}");
        assert_eq!(verdict.stage, stage, "{name}: {verdict:#?}");
        let decided = verdict.line.clone().unwrap();
        assert!(decided.contains(line), "{name}: {decided}");
        assert_eq!(verdict.ended, Ended::Watched, "{name}");
        assert!(
            verdict.reason.contains(decided.trim()),
            "{name}: {}",
            verdict.reason
        );
    }
}

#[test]
fn a_failure_is_explained_by_what_went_wrong_before() {
    for (name, cause) in [
        ("initramfs-shell", "ALERT!  UUID="),
        ("dracut-emergency", "/dev/mapper/rl-root does not exist"),
        (
            "systemd-fstab-device",
            "Dependency failed for local-fs.target",
        ),
        ("kernel-no-root", "VFS: Cannot open root device"),
        ("grub-rescue", "unknown filesystem"),
        ("seabios-empty-disk", "not a bootable disk"),
        ("alpine-shell", "Mounting root failed."),
    ] {
        let verdict = play(&recording(name), Ended::TimedOut, &limits());
        assert!(verdict.reason.contains(cause), "{name}: {}", verdict.reason);
    }
}

#[test]
fn a_normal_boot_leaves_its_milestones_in_order() {
    let verdict = play(&recording("debian12-login"), Ended::TimedOut, &limits());
    let order = [
        "seabios",
        "kernel",
        "kernel-init",
        "disk-pvscsi",
        "disk-scsi",
        "mounted-ext4",
        "systemd",
        "welcome",
        "multi-user",
        "login-prompt",
    ];
    let mut ids = verdict.milestones.iter().map(|milestone| milestone.id);
    for expected in order {
        assert!(
            ids.any(|id| id == expected),
            "no {expected} in order: {verdict:#?}"
        );
    }
    assert!(
        verdict
            .milestones
            .is_sorted_by_key(|milestone| milestone.seconds)
    );
    assert!(verdict.tail.len() <= 41);
    assert_eq!(verdict.engine, "player");
}

#[test]
fn an_initramfs_that_goes_on_by_itself_was_not_stuck() {
    let bytes = b"\n(initramfs) \nEXT4-fs (vda1): mounted filesystem with ordered data mode\n\
                  Welcome to Debian GNU/Linux 12 (bookworm)!\n\nguest login: ";
    let patient = Limits {
        stuck: Duration::from_secs(10),
        ..limits()
    };
    let verdict = play(bytes, Ended::TimedOut, &patient);
    assert_eq!(verdict.outcome, Outcome::Booted, "{verdict:#?}");
}

#[test]
fn a_prompt_that_still_stands_when_the_time_is_up_failed() {
    let hurried = Limits {
        total: Duration::from_millis(100),
        stuck: Duration::from_secs(10),
        ..limits()
    };
    let verdict = play(b"\n(initramfs) ", Ended::TimedOut, &hurried);
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert_eq!(verdict.ended, Ended::TimedOut);
}

#[test]
fn ends_without_a_deciding_line_say_how_far_the_guest_came() {
    let kernel =
        b"[    0.000000] Linux version 6.1.0\n[    1.0] Run /init as init process\nhello\n";
    for (ended, outcome, words) in [
        (
            Ended::PoweredOff,
            Outcome::Failed,
            "powered off before its login prompt",
        ),
        (
            Ended::Reset,
            Outcome::Failed,
            "reset itself before its login prompt",
        ),
        (
            Ended::Failed("emulation failure".to_owned()),
            Outcome::Unclear,
            "emulation failure",
        ),
    ] {
        let verdict = play(kernel, ended, &limits());
        assert_eq!(verdict.outcome, outcome, "{verdict:#?}");
        assert!(verdict.reason.contains(words), "{}", verdict.reason);
        assert!(
            verdict.reason.contains("last, the initramfs ran"),
            "{}",
            verdict.reason
        );
        assert_eq!((verdict.recogniser, verdict.line), (None, None));
    }
    let hurried = Limits {
        total: Duration::from_millis(50),
        ..limits()
    };
    let verdict = play(b"gibberish", Ended::TimedOut, &hurried);
    assert_eq!(verdict.outcome, Outcome::TimedOut);
    assert_eq!(verdict.stage, Stage::Nothing);
    assert_eq!(verdict.tail, ["gibberish"]);
    assert!(
        verdict.reason.contains("nothing it wrote"),
        "{}",
        verdict.reason
    );
}

#[test]
fn what_uefi_says_is_progress_trouble_or_the_end() {
    let said = |line: &str| play(line.as_bytes(), Ended::TimedOut, &limits());
    let disk = "Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)";
    let shell = "Boot0002 \"EFI Internal Shell\" from Fv(7CB8BDC9)/FvFile(7C04A583)";

    // A second entry may boot after a first one that does not.
    let second = said(&format!(
        "BdsDxe: failed to load {disk}: Not Found\r\nBdsDxe: loading {disk}\r\n\
         BdsDxe: starting {disk}\r\nguest login: "
    ));
    assert!(second.booted() && second.saw("uefi-loading") && second.saw("uefi-entry-failed"));
    // The shell is none of the guest's.
    let none = said(&format!(
        "BdsDxe: loading {shell}\r\nBdsDxe: starting {shell}\r\nUEFI Interactive Shell v2.2\r\nShell> "
    ));
    assert_eq!(none.stage, Stage::Nothing);
    assert_eq!(none.recogniser, Some("uefi-shell"));
    // Neither is its menu, nor what it looks for in the network.
    for own in [
        "UiApp",
        "UEFI PXEv4 (MAC:525400123456)",
        "UEFI HTTPv6 (MAC:525400123456)",
    ] {
        let entry = format!("Boot0003 \"{own}\" from PciRoot(0x0)/Pci(0x2,0x0)");
        let verdict = said(&format!(
            "BdsDxe: loading {entry}\r\nBdsDxe: starting {entry}\r\n"
        ));
        assert_eq!(verdict.stage, Stage::Nothing, "{own}");
    }
    // One that finds a script goes on.
    let script = said(&format!(
        "BdsDxe: starting {shell}\r\nShell> FS0:\\startup.nsh\r\n\r\nWelcome to GRUB!\r\nguest login: "
    ));
    assert!(script.booted());

    for (line, id) in [
        (
            "BdsDxe: No bootable option or device was found.\r\n",
            "uefi-nothing-to-boot",
        ),
        (
            "!!!! X64 Exception Type - 0E(#PF - Page-Fault)  CPU Apic ID - 00000000 !!!!\r\n",
            "uefi-exception",
        ),
        ("FS0:\\EFI\\> ", "uefi-shell"),
    ] {
        let verdict = said(line);
        assert_eq!(verdict.outcome, Outcome::Failed, "{line}");
        assert_eq!(verdict.recogniser, Some(id), "{line}");
    }
    let reason = said(
        "Failed to open \\EFI\\BOOT\\grubx64.efi - Not Found\r\nBdsDxe: No bootable option or device was found.\r\n",
    )
    .reason;
    assert!(
        reason.contains("could not start its second boot loader"),
        "{reason}"
    );
}

#[test]
fn a_disk_that_fails_under_a_login_prompt_is_no_proof() {
    /// Reaches the prompt and fails all the same.
    #[derive(Debug)]
    struct Faulty;
    impl Engine for Faulty {
        fn name(&self) -> &'static str {
            "faulty"
        }
        fn run(&self, _: &Machine, _: Duration, watch: &mut dyn Watch) -> Result<Ended> {
            assert_eq!(watch.serial(b"\nguest login: "), Next::Stop);
            Ok(Ended::Failed(
                "a disk failed: d.vmdk: file is truncated".to_owned(),
            ))
        }
    }
    let machine = Machine {
        vcpus: 1,
        memory_mib: 1,
        disks: Vec::new(),
        nics: Vec::new(),
        start: Start::Firmware(Firmware::Bios),
    };
    let verdict = boot(&machine, &Faulty, &limits(), None).unwrap();
    assert_eq!(verdict.outcome, Outcome::Unclear);
    assert!(!verdict.booted());
    assert!(verdict.reason.contains("d.vmdk: file is truncated"));
}

#[test]
fn a_verdict_serialises_with_stable_words() {
    let verdict = play(&recording("initramfs-shell"), Ended::TimedOut, &limits());
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["outcome"], "failed");
    assert_eq!(json["stage"], "initramfs");
    assert_eq!(json["recogniser"], "initramfs-shell");
    assert_eq!(json["ended"], "watched");
    assert!(json["milestones"][0]["seconds"].is_f64());
}

#[test]
fn a_listener_that_goes_away_does_not_stop_the_proof() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let machine = Machine {
        vcpus: 1,
        memory_mib: 1,
        disks: Vec::new(),
        nics: Vec::new(),
        start: Start::Firmware(Firmware::Bios),
    };
    let player = Player {
        bytes: recording("sysv-login"),
        ended: Ended::TimedOut,
    };
    let verdict = boot(&machine, &player, &limits(), Some(&mut Gone)).unwrap();
    assert!(verdict.booted());
}
