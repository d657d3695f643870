//! What the built-in engine refuses before it opens `/dev/kvm`.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use rehost_block::{Error, Kind, Memory, Overlay, StorageDisk};
use rehost_runtime::kvm::KvmEngine;
use rehost_runtime::{Bus, DirectBoot, Engine, Firmware, Machine, MachineDisk, Next, Start, Watch};

struct Blind;

impl Watch for Blind {
    fn serial(&mut self, _: &[u8]) -> Next {
        Next::Continue
    }
}

fn machine() -> Machine {
    Machine {
        vcpus: 1,
        memory_mib: 256,
        disks: Vec::new(),
        nics: Vec::new(),
        start: Start::Direct(DirectBoot {
            kernel: Vec::new(),
            initrd: None,
            command_line: String::new(),
        }),
    }
}

fn disk(bus: Bus) -> MachineDisk {
    let base = StorageDisk::new(Arc::new(Memory::new("disk", vec![0; 4096])));
    MachineDisk {
        disk: Arc::new(Overlay::in_memory(Arc::new(base))),
        bus,
    }
}

fn refusal(machine: &Machine) -> Error {
    KvmEngine
        .run(machine, Duration::from_secs(5), &mut Blind)
        .unwrap_err()
}

#[test]
fn firmware_start_is_refused_by_name() {
    let error = refusal(&Machine {
        start: Start::Firmware(Firmware::Bios),
        ..machine()
    });
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("firmware"), "{error}");
}

#[test]
fn each_foreign_bus_is_refused_by_name() {
    for (bus, name) in [
        (Bus::VirtioScsi, "virtio-scsi"),
        (Bus::Ahci, "AHCI"),
        (Bus::Pvscsi, "VMware"),
        (Bus::Nvme, "NVMe"),
        (Bus::Ide, "IDE"),
        (Bus::Megaraid, "MegaRAID"),
    ] {
        let error = refusal(&Machine {
            disks: vec![disk(Bus::VirtioBlk), disk(bus)],
            ..machine()
        });
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains("--engine qemu"), "{error}");
    }
}

#[test]
fn machines_that_cannot_be_are_refused() {
    let none = refusal(&Machine {
        vcpus: 0,
        ..machine()
    });
    assert_eq!(none.kind(), Kind::Usage);
    let small = refusal(&Machine {
        memory_mib: 4,
        ..machine()
    });
    assert_eq!(small.kind(), Kind::Usage);
    let crowded = refusal(&Machine {
        disks: (0..32).map(|_| disk(Bus::VirtioBlk)).collect(),
        ..machine()
    });
    assert_eq!(crowded.kind(), Kind::Unsupported);
}
