//! What a migration leaves: the names of its files, and the machine that the VM becomes.

use std::path::PathBuf;

use rehost_block::{Error, Result};
use rehost_image::Format;
use rehost_inject::target::Bus;

use crate::source::vmx::{self, Vm};
use crate::target::libvirt::{DiskBus, Domain, DomainDisk, DomainNic, Firmware};

/// The report's file name.
pub(super) const REPORT: &str = "report.json";

/// The target that a machine is described for.
pub(super) const KVM: &str = rehost_inject::target::KVM.name;

/// `NAME.qcow2` for the first disk, `NAME-1.qcow2` for the second, and so on.
pub(super) fn image_name(name: &str, nth: usize, format: Format) -> String {
    if nth == 0 {
        format!("{name}.{format}")
    } else {
        format!("{name}-{nth}.{format}")
    }
}

/// The machine that the user has to make, where none is described.
pub(super) fn to_make(vm: &Vm, bus: &Bus) -> String {
    let macs: Vec<&str> = vm
        .nics
        .iter()
        .filter_map(|nic| nic.mac.as_deref())
        .collect();
    let macs = match macs.as_slice() {
        [] => "none are known".to_owned(),
        macs => macs.join(", "),
    };
    format!(
        "The machine is yours to make: {} processors, {} MiB, its disks on {}, network cards with \
         the addresses it had ({macs}).",
        vm.vcpus, vm.memory_mib, bus.title
    )
}

/// The machine that the VM becomes.
pub(super) fn domain(vm: &Vm, name: String, bus: DiskBus, written: &[PathBuf]) -> Result<Domain> {
    let firmware = match vm.firmware {
        vmx::Firmware::Bios => Firmware::Bios,
        vmx::Firmware::Efi => Firmware::Efi { secure_boot: false },
        vmx::Firmware::EfiSecureBoot => Firmware::Efi { secure_boot: true },
    };
    let disks = written
        .iter()
        .map(|path| {
            let path = path
                .canonicalize()
                .map_err(|error| Error::io("cannot be opened", error).in_file(path))?;
            Ok(DomainDisk {
                path,
                format: Format::Qcow2,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Domain {
        name,
        uuid: vm.uuid,
        memory_mib: vm.memory_mib.get(),
        vcpus: vm.vcpus.get(),
        cores_per_socket: vm.cores_per_socket.get(),
        firmware,
        bus,
        disks,
        nics: vm
            .nics
            .iter()
            .map(|nic| DomainNic {
                mac: nic.mac.clone(),
            })
            .collect(),
    })
}
