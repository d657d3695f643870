//! The machine that the VM becomes, and the names of the files that a migration leaves.

use rehost_block::Result;
use rehost_image::Format;

use super::Run;
use crate::target::{GuestOs, NewDisk, NewMachine, NewNic};

/// The report's file name.
pub(super) const REPORT: &str = "report.json";

/// `NAME.qcow2` for the first disk, `NAME-1.qcow2` for the second, and so on.
pub(super) fn image_name(name: &str, nth: usize, format: Format) -> String {
    if nth == 0 {
        format!("{name}.{format}")
    } else {
        format!("{name}-{nth}.{format}")
    }
}

impl Run<'_> {
    /// The machine that the VM becomes, with these disks.
    pub(super) fn machine(&self, disks: Vec<NewDisk>) -> Result<NewMachine> {
        let vm = self.vm()?;
        let hardware = self.migration.hardware;
        let interfaces = self
            .report
            .inspection
            .as_ref()
            .and_then(|inspection| inspection.system())
            .map_or(&[][..], |system| &system.network);
        // What the guest's own configuration calls a card, by the address or the name it has there.
        let configured = |mac: Option<&str>, name: Option<&str>| {
            interfaces
                .iter()
                .filter_map(|interface| Some((interface.name.as_deref()?, interface)))
                .find(|(known, interface)| {
                    let same = mac.zip(interface.mac.as_deref());
                    same.is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
                        || name == Some(*known)
                })
                .map(|(known, _)| known.to_owned())
        };
        Ok(NewMachine {
            name: self.name(),
            uuid: vm.uuid,
            memory_mib: vm.memory_mib.get(),
            vcpus: vm.vcpus.get(),
            cores_per_socket: vm.cores_per_socket.get(),
            firmware: vm.firmware,
            bus: hardware.boot_bus(vm.firmware)?.name,
            prepared_for: hardware.prepared_for(),
            disks,
            nics: vm
                .nics
                .iter()
                .map(|nic| NewNic {
                    number: nic.number,
                    mac: nic.mac.clone(),
                    guest_name: configured(nic.mac.as_deref(), nic.guest_name.as_deref()),
                })
                .collect(),
            guest: GuestOs::of(self.report.inspection.as_ref(), vm.guest_os.as_deref()),
        })
    }
}
