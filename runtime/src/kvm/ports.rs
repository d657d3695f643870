//! The machine's I/O ports, and what is behind the ones that need no state of their own.
//!
//! One table of numbers for the devices and for the ACPI tables that describe them.

/// First serial port (16550), and its interrupt line.
pub(super) const SERIAL: u16 = 0x3f8;
pub(super) const SERIAL_LAST: u16 = SERIAL + 7;
pub(super) const SERIAL_LINE: u32 = 4;
/// Keyboard controller, of which only the reset command exists.
pub(super) const KEYBOARD_DATA: u16 = 0x60;
pub(super) const KEYBOARD_COMMAND: u16 = 0x64;
/// Clock: index and value.
pub(super) const CLOCK: u16 = 0x70;
pub(super) const CLOCK_LAST: u16 = 0x71;
/// "Fast A20 and reset".
pub(super) const SYSTEM_CONTROL: u16 = 0x92;
/// PM1a event block: status and enable, two bytes each.
pub(super) const PM1_EVENT: u16 = 0x600;
pub(super) const PM1_EVENT_LAST: u16 = PM1_EVENT + 3;
/// PM1a control block.
pub(super) const PM1_CONTROL: u16 = 0x604;
pub(super) const PM1_CONTROL_LAST: u16 = PM1_CONTROL + 1;
/// Power management timer.
pub(super) const PM_TIMER: u16 = 0x608;
pub(super) const PM_TIMER_LAST: u16 = PM_TIMER + 3;
/// PCI configuration mechanism 1: address and data.
pub(super) const PCI_ADDRESS: u16 = 0xcf8;
pub(super) const PCI_DATA: u16 = 0xcfc;
pub(super) const PCI_DATA_LAST: u16 = PCI_DATA + 3;
/// Reset control register, inside the address port's range; written as a byte.
pub(super) const RESET: u16 = 0xcf9;
/// The value that resets the machine (bit 2, with bit 1 for a hard reset).
pub(super) const RESET_HARD: u8 = 6;
