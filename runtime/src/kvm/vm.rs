//! A virtual machine of KVM together with the memory it runs on.
//!
//! The only module of the built-in engine with `unsafe`: handing memory to the kernel, and
//! reading the union in which the kernel says why it could not go on.
#![allow(unsafe_code)]

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use rehost_block::{Error, Result};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Guest memory as this engine maps it.
pub(super) type Memory = GuestMemoryMmap<()>;

/// A VM and its memory, which no other part may unmap.
#[derive(Debug)]
pub(super) struct Vm {
    // Declared before `memory`, so that it is closed before the memory goes.
    fd: VmFd,
    memory: Memory,
}

impl Vm {
    /// A VM of `kvm` with `ram`, given as (start, bytes).
    pub(super) fn new(kvm: &Kvm, ram: &[(GuestAddress, u64)]) -> Result<Self> {
        let mut ranges = Vec::with_capacity(ram.len());
        for (start, bytes) in ram {
            let bytes = usize::try_from(*bytes)
                .map_err(|_| Error::usage("the guest's memory exceeds the address space"))?;
            ranges.push((*start, bytes));
        }
        let memory = Memory::from_ranges(&ranges).map_err(|error| {
            Error::new(rehost_block::Kind::Io, "cannot map the guest's memory")
                .because(error)
                .hint("give the machine less memory")
        })?;
        let fd = kvm
            .create_vm()
            .map_err(|error| Error::io("/dev/kvm does not create a virtual machine", error))?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = region
                .get_host_address(vm_memory::MemoryRegionAddress(0))
                .map_err(|error| Error::internal("guest memory has no address").because(error))?;
            let mapping = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host.addr() as u64,
            };
            // SAFETY: `userspace_addr` is the start of a mapping of `memory_size` bytes that
            // `Self` owns and unmaps only after `fd` is closed; guest regions do not overlap.
            unsafe { fd.set_user_memory_region(mapping) }
                .map_err(|error| Error::io("/dev/kvm does not take the guest's memory", error))?;
        }
        Ok(Self { fd, memory })
    }

    /// Its file descriptor's calls.
    pub(super) const fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Its memory.
    pub(super) const fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// KVM's number for the internal error that `vcpu` has just stopped with
/// (`KVM_INTERNAL_ERROR_*` in `linux/kvm.h`).
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> Option<u32> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason, set by the kernel, says that this member of the union is valid;
    // it is a plain integer.
    Some(unsafe { run.__bindgen_anon_1.internal.suberror })
}
