//! A virtual processor as firmware would leave it: CPUID, model-specific registers, and the
//! registers of the 64-bit entry of the Linux boot protocol.
//!
//! CPUID is what KVM supports on this host, minus nested virtualization (a guest under test
//! needs none), with a topology of one package of single-threaded cores. APIC ids are the
//! processor numbers. Sources: Intel SDM volume 3, 10.9; AMD APM volume 3, appendix E.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2,
    kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use rehost_block::{Error, Result};
use vm_memory::{Address, Bytes, GuestAddress};

use super::layout;
use super::vm::Memory;

/// `IA32_MISC_ENABLE`, and its bit that allows fast string operations.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, memory write-back.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

const CR0_PROTECTED: u64 = 1;
const CR0_MONITOR_COPROCESSOR: u64 = 1 << 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const CR4_FXSAVE: u64 = 1 << 9;
const CR4_SIMD_EXCEPTIONS: u64 = 1 << 10;
const EFER_LONG_MODE_ENABLED: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;
const PAGE: u64 = 0x1000;

/// A flat 64-bit code segment and a flat data segment, at the selectors the boot protocol
/// names (`__BOOT_CS` 0x10, `__BOOT_DS` 0x18).
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// What KVM can show of this host's processors, before the parts that differ per processor.
pub(super) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| Error::io("/dev/kvm does not say what processors it supports", error))
}

/// CPUID of processor `id` among `count`.
pub(super) fn cpuid(kvm: &Kvm, supported: &CpuId, id: u8, count: u8) -> Result<CpuId> {
    let mut entries = supported.as_slice().to_vec();
    // Topology leaves that the host may fill with its own numbers: written below in full.
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let bits = core_bits(count);
    for entry in &mut entries {
        adapt(entry, id, count, bits, deadline_timer);
    }
    let max_basic = entries
        .iter()
        .find(|entry| entry.function == 0)
        .map_or(0, |entry| entry.eax);
    if max_basic >= 0xb {
        entries.extend(extended_topology(id, count, bits));
    }
    CpuId::from_entries(&entries).map_err(|_| Error::internal("more CPUID leaves than KVM takes"))
}

/// Bits of the APIC id that number the cores.
const fn core_bits(count: u8) -> u32 {
    (count as u32).next_power_of_two().trailing_zeros()
}

fn adapt(entry: &mut kvm_cpuid_entry2, id: u8, count: u8, bits: u32, deadline_timer: bool) {
    let (apic_id, cores) = (u32::from(id), u32::from(count));
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & 0xffff | cores << 16 | apic_id << 24;
            set(&mut entry.edx, 28, count > 1); // HTT: more than one logical processor
            set(&mut entry.ecx, 5, false); // VMX
            set(&mut entry.ecx, 24, deadline_timer);
            set(&mut entry.ecx, 31, true); // a hypervisor is present
        }
        0x4 => {
            // Cores per package, and how many share this cache: all of them from level 3 on.
            let shared = if entry.eax >> 5 & 7 >= 3 { cores } else { 1 };
            entry.eax = entry.eax & 0x3fff | (shared - 1) << 14 | ((1 << bits) - 1) << 26;
        }
        0x8000_0001 => {
            set(&mut entry.ecx, 2, false); // SVM
            set(&mut entry.ecx, 1, count > 1); // CmpLegacy: the logical processors are cores
        }
        0x8000_0008 => entry.ecx = entry.ecx & 0xffff_0000 | bits << 12 | (cores - 1),
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0), // SVM's own
        0x8000_001d => {
            let shared = if entry.eax >> 5 & 7 >= 3 { cores } else { 1 };
            entry.eax = entry.eax & !(0xfff << 14) | (shared - 1) << 14;
        }
        // Extended APIC id, core id with one thread each, node 0 of 1.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (apic_id, apic_id, 0, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = *register & !(1 << bit) | u32::from(on) << bit;
}

/// Leaf 0xb: a thread level of one thread, a core level of `count` cores.
fn extended_topology(id: u8, count: u8, bits: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: kind << 8 | index,
        edx: u32::from(id),
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, bits, u32::from(count), 2),
        level(2, 0, 0, 0),
    ]
}

/// Model-specific registers that firmware sets.
pub(super) fn set_msrs(vcpu: &VcpuFd) -> Result<()> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MISC_ENABLE, FAST_STRINGS),
        entry(MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries)
        .map_err(|_| Error::internal("more registers than KVM takes"))?;
    let set = vcpu
        .set_msrs(&msrs)
        .map_err(|error| refused("model-specific registers", error))?;
    if set != entries.len() {
        return Err(Error::unsupported(
            "/dev/kvm refuses model-specific registers that a kernel needs",
        )
        .mismatch(format!("{} set", entries.len()), set));
    }
    Ok(())
}

/// Writes the descriptor table and page tables that [`enter_long_mode`] points at: the first
/// 4 GiB mapped to themselves in pages of 2 MiB.
pub(super) fn write_tables(memory: &Memory) -> Result<()> {
    let failed = |error| Error::internal("boot tables do not fit into guest memory").because(error);
    for (entry, at) in GDT.iter().zip((layout::GDT.raw_value()..).step_by(8)) {
        memory.write_obj(*entry, GuestAddress(at)).map_err(failed)?;
    }
    let pml4 = layout::PAGE_TABLES.raw_value();
    let pdpt = pml4 + PAGE;
    memory
        .write_obj(pdpt | PAGE_PRESENT_WRITABLE, GuestAddress(pml4))
        .map_err(failed)?;
    for gib in 0..4 {
        let directory = pdpt + PAGE * (gib + 1);
        memory
            .write_obj(
                directory | PAGE_PRESENT_WRITABLE,
                GuestAddress(pdpt + gib * 8),
            )
            .map_err(failed)?;
        for page in 0..512 {
            let target = gib << 30 | page << 21;
            memory
                .write_obj(
                    target | PAGE_PRESENT_WRITABLE | PAGE_LARGE,
                    GuestAddress(directory + page * 8),
                )
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Where a processor starts in 64-bit mode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// First instruction.
    pub(super) rip: u64,
    /// Top of the stack.
    pub(super) rsp: u64,
    /// The boot protocol's pointer to `boot_params`.
    pub(super) rsi: u64,
}

/// Puts `vcpu` into 64-bit mode at `entry`, on the tables of [`write_tables`].
pub(super) fn enter_long_mode(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let mut sregs = vcpu
        .get_sregs()
        .map_err(|error| refused("system registers", error))?;
    let data = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x18,
        type_: 3, // data, writable, accessed
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: 11, // code, readable, accessed
        db: 0,
        l: 1,
        ..data
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT.raw_value();
    sregs.gdt.limit = u16::try_from(GDT.len() * 8 - 1).unwrap_or(u16::MAX);
    sregs.cr3 = layout::PAGE_TABLES.raw_value();
    sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION | CR4_FXSAVE | CR4_SIMD_EXCEPTIONS;
    sregs.cr0 = CR0_PROTECTED
        | CR0_MONITOR_COPROCESSOR
        | CR0_EXTENSION_TYPE
        | CR0_NUMERIC_ERROR
        | CR0_PAGING;
    sregs.efer = EFER_LONG_MODE_ENABLED | EFER_LONG_MODE_ACTIVE;
    vcpu.set_sregs(&sregs)
        .map_err(|error| refused("system registers", error))?;
    let regs = kvm_regs {
        rip: entry.rip,
        rsp: entry.rsp,
        rsi: entry.rsi,
        rflags: 2, // the bit that is always set
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(|error| refused("registers", error))
}

fn refused(what: &str, error: kvm_ioctls::Error) -> Error {
    Error::io(format!("/dev/kvm refuses the processor's {what}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_id_has_room_for_every_core() {
        for count in 1..=64_u8 {
            assert!(1_u32 << core_bits(count) >= u32::from(count), "{count}");
        }
        assert_eq!(core_bits(1), 0);
        assert_eq!(core_bits(2), 1);
        assert_eq!(core_bits(3), 2);
    }

    #[test]
    fn leaf_one_names_the_processor_and_hides_nested_virtualization() {
        let mut entry = kvm_cpuid_entry2 {
            function: 1,
            ebx: 0xff_ff_08_00,
            ecx: 1 << 5,
            ..Default::default()
        };
        adapt(&mut entry, 3, 4, 2, true);
        assert_eq!(entry.ebx, 0x03_04_08_00);
        assert_eq!(entry.ecx, 1 << 31 | 1 << 24);
        assert_eq!(entry.edx, 1 << 28);
    }
}
