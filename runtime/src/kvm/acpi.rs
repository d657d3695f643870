//! ACPI tables: what the guest's kernel learns the machine from.
//!
//! RSDP, XSDT, FADT, FACS, MADT and a DSDT with the PCI host bridge, its interrupt routing, the
//! serial port, the clock and the power-off state (ACPI 6.5, chapters 5, 6 and 16). Leaves out on
//! purpose: MCFG (configuration space is reached through ports 0xcf8 and 0xcfc), hot plug, and
//! every sleep state but S5.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package,
    PackageBuilder, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::facs::FACS;
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::{GenericAddress, Sdt};
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use rehost_block::{Error, Result};
use vm_memory::{Address, Bytes, GuestAddress};

use super::layout;
use super::pci::{INTERRUPT_LINES, SLOTS, line_of_slot};
use super::ports;
use super::vm::Memory;

const OEM: [u8; 6] = *b"REHOST";
const TABLE: [u8; 8] = *b"REHOSTVM";
const REVISION: u32 = 1;

/// `SLP_TYPa` of `_S5`, as the DSDT says and the power-management port expects.
pub(super) const SLEEP_TYPE_OFF: u8 = 5;
/// The system control interrupt.
const SCI: u8 = 9;

/// FADT flags (table 5.10): WBINVD works, all processors have C1, no power and sleep button
/// among the fixed hardware, the timer has 32 bits, the reset register exists.
const FADT_FLAGS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 10;
/// `IAPC_BOOT_ARCH`: legacy devices (the serial port, the clock), no keyboard controller, no VGA.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2;

/// MADT interrupt source override (section 5.2.12.5): ISA line `source` is `gsi`.
fn interrupt_override(source: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut bytes = vec![2, 10, 0, source];
    bytes.extend_from_slice(&gsi.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes
}

/// Active high, level triggered, in the flags of an override.
const HIGH_LEVEL: u16 = 0b1101;

/// Writes the tables of a machine with `vcpus` processors; the RSDP is at [`layout::ACPI`].
pub(super) fn write(memory: &Memory, vcpus: u8) -> Result<()> {
    let mut place = Place {
        memory,
        // The RSDP comes first and is written last.
        next: layout::ACPI.raw_value() + 64,
    };
    let dsdt = place.put(&bytes(&dsdt()))?;
    let facs = place.put(&bytes(&FACS::new()))?;
    let fadt = place.put(fadt(dsdt, facs).as_slice())?;
    let madt = place.put(&madt(vcpus))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place.put(&bytes(&xsdt))?;
    memory
        .write_slice(&bytes(&Rsdp::new(OEM, xsdt)), layout::ACPI)
        .map_err(|error| Error::internal("the RSDP is not in memory").because(error))
}

struct Place<'a> {
    memory: &'a Memory,
    next: u64,
}

impl Place<'_> {
    /// Writes a table at the next multiple of 64 (the FACS asks for that) and says where.
    fn put(&mut self, table: &[u8]) -> Result<u64> {
        let at = self.next;
        let end = at.saturating_add(u64::try_from(table.len()).unwrap_or(u64::MAX));
        if end > layout::ACPI_END {
            return Err(Error::internal("the ACPI tables exceed their area"));
        }
        self.memory
            .write_slice(table, GuestAddress(at))
            .map_err(|error| Error::internal("an ACPI table is not in memory").because(error))?;
        self.next = end.next_multiple_of(64);
        Ok(at)
    }
}

/// What a table looks like in memory.
fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Vec::new();
    table.to_aml_bytes(&mut sink as &mut dyn AmlSink);
    sink
}

/// Fixed ACPI description table, revision 6.3, by the offsets of table 5.9.
fn fadt(dsdt: u64, facs: u64) -> Sdt {
    let mut table = Sdt::new(*b"FACP", 276, 6, OEM, TABLE, REVISION);
    table.write_u32(36, u32::try_from(facs).unwrap_or(0)); // FIRMWARE_CTRL
    table.write_u32(40, u32::try_from(dsdt).unwrap_or(0)); // DSDT
    table.write_u16(46, u16::from(SCI)); // SCI_INT
    table.write_u32(56, ports::PM1_EVENT.into()); // PM1a_EVT_BLK
    table.write_u32(64, ports::PM1_CONTROL.into()); // PM1a_CNT_BLK
    table.write_u32(76, ports::PM_TIMER.into()); // PM_TMR_BLK
    table.write_u8(88, 4); // PM1_EVT_LEN
    table.write_u8(89, 2); // PM1_CNT_LEN
    table.write_u8(91, 4); // PM_TMR_LEN
    table.write_u16(96, 0xfff); // P_LVL2_LAT: no C2
    table.write_u16(98, 0xfff); // P_LVL3_LAT: no C3
    table.write_u8(108, super::clock::CENTURY); // CENTURY
    table.write_u16(109, BOOT_ARCHITECTURE); // IAPC_BOOT_ARCH
    table.write_u32(112, FADT_FLAGS); // Flags
    table.write(116, GenericAddress::io_port_address::<u8>(ports::RESET)); // RESET_REG
    table.write_u8(128, ports::RESET_HARD); // RESET_VALUE
    table.write_u8(131, 3); // FADT minor version
    table.write_u64(140, dsdt); // X_DSDT
    table.write(
        148,
        GenericAddress::io_port_address::<u32>(ports::PM1_EVENT),
    ); // X_PM1a_EVT_BLK
    table.write(
        172,
        GenericAddress::io_port_address::<u16>(ports::PM1_CONTROL),
    ); // X_PM1a_CNT_BLK
    table.write(208, GenericAddress::io_port_address::<u32>(ports::PM_TIMER)); // X_PM_TMR_BLK
    table.update_checksum();
    table
}

/// Multiple APIC description table: processors, the I/O APIC, and the two ISA lines that differ
/// from "line n is input n, edge triggered".
fn madt(vcpus: u8) -> Vec<u8> {
    let mut base = MADT::new(
        OEM,
        TABLE,
        REVISION,
        LocalInterruptController::Address(layout::LOCAL_APIC),
    );
    for id in 0..vcpus {
        base.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    base.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    let mut table = bytes(&base);
    // The crate has no overrides, so they are appended and the header is corrected.
    table.extend_from_slice(&interrupt_override(0, 2, 0)); // the timer is wired to input 2
    table.extend_from_slice(&interrupt_override(SCI, SCI.into(), HIGH_LEVEL));
    // Flags: a PC/AT pair of 8259s is there as well.
    if let Some(flags) = table.get_mut(40..44) {
        flags.copy_from_slice(&1_u32.to_le_bytes());
    }
    let len = u32::try_from(table.len()).unwrap_or(u32::MAX);
    if let Some(field) = table.get_mut(4..8) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    seal(&mut table);
    table
}

/// Sets the checksum byte so that all bytes of the table add up to 0.
fn seal(table: &mut [u8]) {
    if let Some(sum) = table.get_mut(9) {
        *sum = 0;
    }
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(field) = table.get_mut(9) {
        *field = sum.wrapping_neg();
    }
}

/// Differentiated system description table.
fn dsdt() -> Sdt {
    let mut aml = Vec::new();
    let sleep = [u16::from(SLEEP_TYPE_OFF); 2].map(|kind| kind as u8);
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&sleep[0], &sleep[1], &ZERO, &ZERO]),
    )
    .to_aml_bytes(&mut aml);
    Scope::new("_SB_".into(), vec![&HostBridge, &SerialPort, &Clock]).to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    table.append_slice(&aml);
    table.update_checksum();
    table
}

/// The PCI host bridge with its windows and interrupt routing.
struct HostBridge;

impl Aml for HostBridge {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut routing = PackageBuilder::new();
        for slot in 0..SLOTS {
            // Address: slot and "any function"; pin INTA; straight to an I/O APIC input.
            let address = u32::from(slot) << 16 | 0xffff;
            let line = line_of_slot(slot);
            routing.add_element(&Package::new(vec![&address, &ZERO, &ZERO, &line]));
        }
        debug_assert!(INTERRUPT_LINES.contains(&line_of_slot(SLOTS - 1)));
        let last = u32::try_from(layout::PCI_LAST).unwrap_or(u32::MAX);
        let first = u32::try_from(layout::GAP).unwrap_or(u32::MAX);
        Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_BBN".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &AddressSpace::new_bus_number(0_u16, 0_u16),
                        &IO::new(ports::PCI_ADDRESS, ports::PCI_ADDRESS, 1, 8),
                        &AddressSpace::new_io(0_u16, ports::PCI_ADDRESS - 1, None),
                        &AddressSpace::new_io(ports::PCI_DATA + 4, 0xffff_u16, None),
                        &AddressSpace::new_memory(
                            AddressSpaceCacheable::NotCacheable,
                            true,
                            first,
                            last,
                            None,
                        ),
                    ]),
                ),
                &Name::new("_PRT".into(), &routing),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The first serial port.
struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &Interrupt::new(true, true, false, false, ports::SERIAL_LINE),
                        &IO::new(ports::SERIAL, ports::SERIAL, 1, 8),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The real-time clock.
struct Clock;

impl Aml for Clock {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Device::new(
            "RTC_".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&IO::new(ports::CLOCK, ports::CLOCK, 1, 2)]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table(memory: &Memory, at: u64) -> Vec<u8> {
        let len: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn every_table_is_found_from_the_rsdp_and_adds_up_to_zero() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        write(&memory, 64).unwrap();
        let mut rsdp = vec![0; 36];
        memory.read_slice(&mut rsdp, layout::ACPI).unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let xsdt = table(&memory, number(&rsdp, 24));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (b"XSDT".as_slice(), 0));
        let fadt = table(&memory, number(&xsdt, 36));
        assert_eq!((&fadt[..4], sum(&fadt)), (b"FACP".as_slice(), 0));
        let dsdt = table(&memory, number(&fadt, 140));
        assert_eq!((&dsdt[..4], sum(&dsdt)), (b"DSDT".as_slice(), 0));
        let madt = table(&memory, number(&xsdt, 44));
        assert_eq!((&madt[..4], sum(&madt)), (b"APIC".as_slice(), 0));
    }

    #[test]
    fn madt_lists_every_processor_and_ends_where_its_entries_end() {
        let madt = madt(3);
        let mut at = 44;
        let mut kinds = Vec::new();
        while at < madt.len() {
            kinds.push(madt[at]);
            assert!(madt[at + 1] > 1);
            at += usize::from(madt[at + 1]);
        }
        assert_eq!(at, madt.len());
        assert_eq!(kinds, [0, 0, 0, 1, 2, 2]);
    }
}
