//! Where things are in the guest's physical address space.
//!
//! The low megabyte follows the PC: RAM to 639 KiB, firmware tables in the area below 1 MiB that
//! an operating system scans. RAM ends at 3 GiB and goes on at 4 GiB; the gap holds PCI BARs,
//! the interrupt controllers and the pages KVM needs for itself.

use vm_memory::GuestAddress;

/// Descriptor table the processor starts with.
pub(super) const GDT: GuestAddress = GuestAddress(0x500);
/// `boot_params` of the Linux boot protocol.
pub(super) const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// First stack, growing down to the zero page's end.
pub(super) const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Page tables: one PML4, one PDPT, four page directories for the first 4 GiB.
pub(super) const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Kernel command line, up to 64 KiB.
pub(super) const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// End of the RAM below the first megabyte.
pub(super) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, the RSDP first, where a BIOS has them (ACPI 6.5, section 5.2.5.1).
pub(super) const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// End of the space for ACPI tables.
pub(super) const ACPI_END: u64 = 0x10_0000;
/// RAM from here on belongs to the kernel.
pub(super) const HIGH_RAM: GuestAddress = GuestAddress(0x10_0000);

/// Start of the gap below 4 GiB; also the first address of PCI memory.
pub(super) const GAP: u64 = 0xc000_0000;
/// Last address of PCI memory, below the I/O APIC.
pub(super) const PCI_LAST: u64 = 0xfebf_ffff;
/// I/O APIC, as KVM places it.
pub(super) const IO_APIC: u32 = 0xfec0_0000;
/// Local APICs, as KVM places them.
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page for KVM's identity map (used on Intel without unrestricted guests).
pub(super) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment.
pub(super) const TSS: usize = 0xfffb_d000;
/// RAM above the gap.
pub(super) const ABOVE_GAP: u64 = 1 << 32;

/// The RAM of a machine with `bytes` of memory, as (start, length).
pub(super) fn ram(bytes: u64) -> Vec<(GuestAddress, u64)> {
    if bytes <= GAP {
        return vec![(GuestAddress(0), bytes)];
    }
    vec![
        (GuestAddress(0), GAP),
        (GuestAddress(ABOVE_GAP), bytes.saturating_sub(GAP)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_of_a_small_machine_is_one_piece() {
        assert_eq!(ram(512 << 20), [(GuestAddress(0), 512 << 20)]);
        assert_eq!(ram(GAP).len(), 1);
    }

    #[test]
    fn ram_beyond_three_gib_goes_on_above_the_gap() {
        assert_eq!(
            ram(4 << 30),
            [(GuestAddress(0), GAP), (GuestAddress(ABOVE_GAP), 1 << 30)]
        );
    }
}
