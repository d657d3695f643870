//! PCI: one bus, configuration mechanism 1, and the configuration space of a function.
//!
//! Sources: PCI Local Bus Specification 3.0, chapters 3.2.2.3.2 and 6. Leaves out on purpose:
//! bridges and further buses, functions other than 0, I/O BARs, memory-mapped configuration.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// Slots of the bus; slot 0 is the host bridge.
pub(super) const SLOTS: u8 = 32;
/// The I/O APIC inputs that PCI interrupts come in on.
pub(super) const INTERRUPT_LINES: RangeInclusive<u32> = 16..=23;

/// The input of the I/O APIC on which the function in `slot` interrupts.
pub(super) fn line_of_slot(slot: u8) -> u32 {
    let count = INTERRUPT_LINES.end() - INTERRUPT_LINES.start() + 1;
    INTERRUPT_LINES.start() + u32::from(slot) % count
}

/// Something in a slot of the bus.
pub(super) trait Function: Send + Sync + fmt::Debug {
    /// Reads configuration space at `offset`; the bytes do not cross a double word.
    fn config_read(&self, offset: u8, data: &mut [u8]);
    /// Writes configuration space at `offset`.
    fn config_write(&self, offset: u8, data: &[u8]);
    /// Reads memory at `address`; false when the function does not decode it.
    fn memory_read(&self, address: u64, data: &mut [u8]) -> bool;
    /// Writes memory at `address`; false when the function does not decode it.
    fn memory_write(&self, address: u64, data: &[u8]) -> bool;
}

/// The bus behind its two ports.
#[derive(Debug)]
pub(super) struct Bus {
    address: Mutex<u32>,
    functions: Vec<Arc<dyn Function>>,
}

/// Enables the data port in the address register.
const ADDRESS_ENABLE: u32 = 1 << 31;

impl Bus {
    /// A bus with `functions`, the first in slot 0.
    pub(super) fn new(functions: Vec<Arc<dyn Function>>) -> Self {
        Self {
            address: Mutex::default(),
            functions,
        }
    }

    fn address(&self) -> u32 {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read of the address port: only double words reach the register.
    pub(super) fn read_address(&self, data: &mut [u8]) {
        if data.len() == 4 {
            data.copy_from_slice(&self.address().to_le_bytes());
        }
    }

    /// A write to the address port.
    pub(super) fn write_address(&self, data: &[u8]) {
        if let Ok(bytes) = data.try_into() {
            *self.address.lock().unwrap_or_else(PoisonError::into_inner) =
                u32::from_le_bytes(bytes);
        }
    }

    /// The function and the offset that the address register and a byte of the data port name.
    fn selected(&self, byte: u16) -> Option<(&Arc<dyn Function>, u8)> {
        let address = self.address();
        let [low, function_and_slot, bus, _] = address.to_le_bytes();
        if address & ADDRESS_ENABLE == 0 || bus != 0 || function_and_slot & 7 != 0 {
            return None;
        }
        let function = self.functions.get(usize::from(function_and_slot >> 3))?;
        Some((function, low & 0xfc | (byte & 3) as u8))
    }

    /// A read of the data port at its byte `byte`; absent functions read as all ones.
    pub(super) fn read_data(&self, byte: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((function, offset)) = self.selected(byte) {
            function.config_read(offset, data);
        }
    }

    /// A write to the data port at its byte `byte`.
    pub(super) fn write_data(&self, byte: u16, data: &[u8]) {
        if let Some((function, offset)) = self.selected(byte) {
            function.config_write(offset, data);
        }
    }

    /// A read of memory that is not RAM; undecoded addresses read as all ones.
    pub(super) fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        for function in &self.functions {
            if function.memory_read(address, data) {
                return;
            }
        }
    }

    /// A write to memory that is not RAM.
    pub(super) fn memory_write(&self, address: u64, data: &[u8]) {
        for function in &self.functions {
            if function.memory_write(address, data) {
                return;
            }
        }
    }
}

/// What a function is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    /// Vendor and device.
    pub(super) vendor: u16,
    pub(super) device: u16,
    /// Revision.
    pub(super) revision: u8,
    /// Base class and subclass.
    pub(super) class: (u8, u8),
    /// Subsystem vendor and subsystem.
    pub(super) subsystem: (u16, u16),
}

const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_INTERRUPT_OFF: u16 = 1 << 10;
/// Memory space, bus mastering, interrupt disable.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | COMMAND_INTERRUPT_OFF;
const STATUS: u8 = 0x06;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BAR0: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3c;
const INTERRUPT_PIN: u8 = 0x3d;
const FIRST_CAPABILITY: u8 = 0x40;

/// The 256 bytes of a type 0 header and its capabilities, and which bits a guest may change.
#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    /// Where the pointer to the next capability goes, and where that one goes.
    link: u8,
    free: u8,
    bar_size: u32,
}

impl ConfigSpace {
    /// The header of `identity`, without BARs, interrupt or capabilities.
    pub(super) fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            link: CAPABILITIES,
            free: FIRST_CAPABILITY,
            bar_size: 0,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(
            0x08,
            &[identity.revision, 0, identity.class.1, identity.class.0],
        );
        space.put(0x2c, &identity.subsystem.0.to_le_bytes());
        space.put(0x2e, &identity.subsystem.1.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// A 32-bit memory BAR 0 of `size` bytes (a power of two, at least 16), decoded at `base`
    /// from the start, as firmware would have set it up; interrupt pin A.
    pub(super) fn with_bar_and_interrupt(mut self, base: u32, size: u32) -> Self {
        debug_assert!(size.is_power_of_two() && size >= 16 && base.is_multiple_of(size));
        self.bar_size = size;
        self.put(BAR0, &base.to_le_bytes());
        self.allow(BAR0, &(!(size - 1)).to_le_bytes());
        self.put(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        self.put(INTERRUPT_PIN, &[1]);
        self
    }

    /// Appends a capability with `body` (after its id and link) and the bits of the body that may
    /// be written; says where it is.
    pub(super) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        self.put(self.link, &[at]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        self.link = at + 1;
        let len = u8::try_from(body.len() + 2).unwrap_or(u8::MAX);
        self.free = at.saturating_add(len).next_multiple_of(4);
        if let Some(status) = self.bytes.get_mut(usize::from(STATUS)) {
            *status |= STATUS_CAPABILITIES;
        }
        at
    }

    fn put(&mut self, at: u8, bytes: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(usize::from(at)).zip(bytes) {
            *slot = *byte;
        }
    }

    fn allow(&mut self, at: u8, mask: &[u8]) {
        for (slot, byte) in self.writable.iter_mut().skip(usize::from(at)).zip(mask) {
            *slot = *byte;
        }
    }

    /// Copies the bytes at `offset`; past the end they are zero.
    pub(super) fn read(&self, offset: u8, data: &mut [u8]) {
        data.fill(0);
        for (byte, at) in data
            .iter_mut()
            .zip(self.bytes.iter().skip(usize::from(offset)))
        {
            *byte = *at;
        }
    }

    /// Changes the bits at `offset` that may be changed.
    pub(super) fn write(&mut self, offset: u8, data: &[u8]) {
        let offset = usize::from(offset);
        let slots = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((slot, mask), byte) in slots.zip(data) {
            *slot = *slot & !mask | byte & mask;
        }
    }

    fn u16(&self, at: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// The double word at `at`.
    pub(super) fn u32(&self, at: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The byte at `at`.
    pub(super) fn u8(&self, at: u8) -> u8 {
        self.bytes.get(usize::from(at)).copied().unwrap_or(0)
    }

    /// Where BAR 0 is decoded, when it is.
    pub(super) fn bar(&self) -> Option<u64> {
        let base = self.u32(BAR0) & !0xf;
        (self.u16(COMMAND) & COMMAND_MEMORY != 0 && self.bar_size != 0 && base != 0)
            .then(|| u64::from(base))
    }

    /// The offset into BAR 0 that `address` means, when `len` bytes from there are inside.
    pub(super) fn bar_offset(&self, address: u64, len: usize) -> Option<u32> {
        let within = address.checked_sub(self.bar()?)?;
        let end = within.checked_add(u64::try_from(len).ok()?)?;
        if end > u64::from(self.bar_size) {
            return None;
        }
        u32::try_from(within).ok()
    }

    /// Whether the guest allows the interrupt pin.
    pub(super) fn pin_allowed(&self) -> bool {
        self.u16(COMMAND) & COMMAND_INTERRUPT_OFF == 0
    }

    /// Shows in the status register whether the function asks for an interrupt by its pin.
    pub(super) fn show_interrupt(&mut self, pending: bool) {
        if let Some(status) = self.bytes.get_mut(usize::from(STATUS)) {
            *status = *status & !STATUS_INTERRUPT | if pending { STATUS_INTERRUPT } else { 0 };
        }
    }
}

/// The host bridge in slot 0: nothing but its configuration space.
#[derive(Debug)]
pub(super) struct HostBridge {
    space: Mutex<ConfigSpace>,
}

impl Default for HostBridge {
    fn default() -> Self {
        Self {
            space: Mutex::new(ConfigSpace::new(Identity {
                // Intel's "virtual host bridge", which no driver and no quirk claims.
                vendor: 0x8086,
                device: 0x0d57,
                revision: 0,
                class: (0x06, 0x00),
                subsystem: (0, 0),
            })),
        }
    }
}

impl Function for HostBridge {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.space
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) {
        self.space
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, data);
    }

    fn memory_read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn memory_write(&self, _: u64, _: &[u8]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: (1, 0),
            subsystem: (0x1af4, 2),
        })
        .with_bar_and_interrupt(0xc000_0000, 0x8000)
    }

    #[test]
    fn bar_answers_its_size_and_keeps_a_new_address() {
        let mut space = space();
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.u32(BAR0), 0xffff_8000);
        space.write(BAR0, &0xd000_1234_u32.to_le_bytes());
        assert_eq!(space.u32(BAR0), 0xd000_0000);
        assert_eq!(space.bar(), Some(0xd000_0000));
        assert_eq!(space.bar_offset(0xd000_0010, 4), Some(0x10));
        assert_eq!(space.bar_offset(0xd000_7ffe, 4), None);
        space.write(COMMAND, &[0, 0]);
        assert_eq!(space.bar(), None);
    }

    #[test]
    fn identity_cannot_be_overwritten() {
        let mut space = space();
        for offset in 0..=255 {
            if !(BAR0..BAR0 + 4).contains(&offset) && offset != INTERRUPT_LINE {
                space.write(offset, &[0xff]);
            }
        }
        assert_eq!(space.u32(0), 0x1042_1af4);
        assert_eq!(space.u32(8), 0x0100_0001);
        assert_eq!(space.u16(COMMAND), COMMAND_WRITABLE);
    }

    #[test]
    fn capabilities_are_linked_in_order() {
        let mut space = space();
        let first = space.add_capability(9, &[1, 2, 3], &[]);
        let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        assert_eq!(space.u8(CAPABILITIES), first);
        assert_eq!((space.u8(first), space.u8(first + 1)), (9, second));
        assert_eq!((space.u8(second), space.u8(second + 1)), (0x11, 0));
        assert_eq!((first % 4, second % 4), (0, 0));
        assert_eq!(space.u8(STATUS) & STATUS_CAPABILITIES, STATUS_CAPABILITIES);
        space.write(second + 2, &[0xff, 0xff]);
        assert_eq!((space.u8(second + 2), space.u8(second + 3)), (0, 0xc0));
    }

    #[test]
    fn absent_slot_reads_as_ones_and_the_bridge_is_found() {
        let bus = Bus::new(vec![Arc::new(HostBridge::default())]);
        let mut id = [0; 4];
        bus.write_address(&0x8000_0000_u32.to_le_bytes());
        bus.read_data(0, &mut id);
        assert_eq!(u32::from_le_bytes(id), 0x0d57_8086);
        bus.write_address(&0x8000_0800_u32.to_le_bytes());
        bus.read_data(0, &mut id);
        assert_eq!(id, [0xff; 4]);
        bus.write_address(&0x0000_0000_u32.to_le_bytes());
        bus.read_data(0, &mut id);
        assert_eq!(id, [0xff; 4]);
        bus.write_address(&0x8000_0008_u32.to_le_bytes());
        let mut class = [0; 1];
        bus.read_data(3, &mut class);
        assert_eq!(class, [6]);
    }
}
