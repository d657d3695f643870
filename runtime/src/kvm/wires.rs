//! What leads from a PCI function to the processors and back: interrupt messages, interrupt
//! pins and doorbells.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_msi;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::pci::{INTERRUPT_LINES, line_of_slot};
use super::vm::Vm;

/// The connections of a function.
///
/// None of the calls can fail in a way that a device could answer: KVM refuses only messages to
/// processors that do not exist, which a real bus loses as well.
pub(super) trait Wires: Send + Sync + fmt::Debug {
    /// Sends an interrupt message.
    fn message(&self, address: u64, data: u32);
    /// Raises the interrupt pin of the function in `slot`.
    fn raise(&self, slot: u8);
    /// Lowers it.
    fn lower(&self, slot: u8);
    /// From now on a write to `address` rings `bell`, without leaving the kernel.
    fn hang(&self, bell: &EventFd, address: u64);
    /// The opposite of [`Wires::hang`].
    fn take_down(&self, bell: &EventFd, address: u64);
}

/// The wires of a VM.
#[derive(Debug)]
pub(super) struct VmWires {
    vm: Arc<Vm>,
    /// For each input of the I/O APIC that PCI uses, the slots that hold it up.
    raised: Mutex<[u32; 8]>,
}

impl VmWires {
    /// Wires into `vm`.
    pub(super) fn new(vm: Arc<Vm>) -> Self {
        Self {
            vm,
            raised: Mutex::default(),
        }
    }

    /// Sets the part of `slot` in its shared line; the line is up while any slot holds it.
    fn hold(&self, slot: u8, up: u32) {
        let line = line_of_slot(slot);
        let index = usize::try_from(line - INTERRUPT_LINES.start()).unwrap_or(0);
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = raised.get_mut(index) {
            *slots = *slots & !(1 << slot) | up << slot;
            let _lost_on_a_dying_vm = self.vm.fd().set_irq_line(line, *slots != 0);
        }
    }
}

impl Wires for VmWires {
    fn message(&self, address: u64, data: u32) {
        let message = kvm_msi {
            address_lo: (address & u64::from(u32::MAX)) as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        let _lost_as_on_a_real_bus = self.vm.fd().signal_msi(message);
    }

    fn raise(&self, slot: u8) {
        self.hold(slot, 1);
    }

    fn lower(&self, slot: u8) {
        self.hold(slot, 0);
    }

    fn hang(&self, bell: &EventFd, address: u64) {
        // Without it the write leaves the kernel and the device rings the bell itself.
        let _slower_without =
            self.vm
                .fd()
                .register_ioevent(bell, &IoEventAddress::Mmio(address), NoDatamatch);
    }

    fn take_down(&self, bell: &EventFd, address: u64) {
        let _absent_when_refused =
            self.vm
                .fd()
                .unregister_ioevent(bell, &IoEventAddress::Mmio(address), NoDatamatch);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What went over the wires.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(in crate::kvm) enum Wire {
        Message(u64, u32),
        Raise(u8),
        Lower(u8),
        Hang(u64),
        TakeDown(u64),
    }

    /// Wires that end in a list.
    #[derive(Debug, Default)]
    pub(in crate::kvm) struct Recorded(Mutex<Vec<Wire>>);

    impl Recorded {
        pub(in crate::kvm) fn taken(&self) -> Vec<Wire> {
            std::mem::take(&mut self.0.lock().unwrap())
        }

        fn push(&self, wire: Wire) {
            self.0.lock().unwrap().push(wire);
        }
    }

    impl Wires for Recorded {
        fn message(&self, address: u64, data: u32) {
            self.push(Wire::Message(address, data));
        }

        fn raise(&self, slot: u8) {
            self.push(Wire::Raise(slot));
        }

        fn lower(&self, slot: u8) {
            self.push(Wire::Lower(slot));
        }

        fn hang(&self, _: &EventFd, address: u64) {
            self.push(Wire::Hang(address));
        }

        fn take_down(&self, _: &EventFd, address: u64) {
            self.push(Wire::TakeDown(address));
        }
    }
}
