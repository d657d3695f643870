//! MSI-X: the table of messages a function interrupts with, and what is held back while masked.
//!
//! PCI Local Bus Specification 3.0, section 6.8.2.

use super::wires::Wires;

/// Bytes of one table entry: address (8), data (4), control (4).
const ENTRY: usize = 16;
/// Vector control: masked.
const MASKED: u8 = 1;
/// Offset of the vector control in an entry.
const CONTROL: usize = 12;
/// Message control, as a capability has it in its third and fourth byte: enabled, all masked.
pub(super) const ENABLE: u16 = 1 << 15;
pub(super) const MASK_ALL: u16 = 1 << 14;

/// "No vector" in virtio's vector registers.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// The table, the pending bits, and the message control word.
#[derive(Debug)]
pub(super) struct MsiX {
    table: Vec<u8>,
    pending: u64,
    control: u16,
}

impl MsiX {
    /// A table of `vectors` (at most 64) masked entries.
    pub(super) fn new(vectors: u16) -> Self {
        let mut table = vec![0; usize::from(vectors) * ENTRY];
        for control in table.iter_mut().skip(CONTROL).step_by(ENTRY) {
            *control = MASKED;
        }
        Self {
            table,
            pending: 0,
            control: 0,
        }
    }

    /// Whether the guest uses MSI-X rather than the pin.
    pub(super) const fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// Whether `vector` is in the table.
    pub(super) fn has(&self, vector: u16) -> bool {
        usize::from(vector) < self.table.len() / ENTRY
    }

    /// The guest wrote the message control word.
    pub(super) fn set_control(&mut self, control: u16, wires: &dyn Wires) {
        self.control = control;
        self.send_pending(wires);
    }

    /// Reads the table.
    pub(super) fn read(&self, offset: u32, data: &mut [u8]) {
        data.fill(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, at) in data.iter_mut().zip(self.table.iter().skip(from)) {
            *byte = *at;
        }
    }

    /// Writes the table; a vector that is unmasked sends what it held back.
    pub(super) fn write(&mut self, offset: u32, data: &[u8], wires: &dyn Wires) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (slot, byte) in self.table.iter_mut().skip(from).zip(data) {
            *slot = *byte;
        }
        self.send_pending(wires);
    }

    /// Reads the pending bits.
    pub(super) fn read_pending(&self, offset: u32, data: &mut [u8]) {
        data.fill(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bits = self.pending.to_le_bytes();
        for (byte, at) in data.iter_mut().zip(bits.iter().skip(from)) {
            *byte = *at;
        }
    }

    /// Interrupts with `vector`, at once or when it is unmasked.
    pub(super) fn fire(&mut self, vector: u16, wires: &dyn Wires) {
        if self.enabled() && self.has(vector) && vector < 64 {
            self.pending |= 1 << vector;
            self.send_pending(wires);
        }
    }

    /// Forgets everything but the control word, which belongs to configuration space.
    pub(super) fn forget_pending(&mut self) {
        self.pending = 0;
    }

    fn send_pending(&mut self, wires: &dyn Wires) {
        if !self.enabled() || self.control & MASK_ALL != 0 || self.pending == 0 {
            return;
        }
        for (vector, entry) in self.table.chunks_exact(ENTRY).enumerate() {
            let bit = 1 << vector;
            if self.pending & bit == 0 || entry.get(CONTROL).is_none_or(|c| c & MASKED != 0) {
                continue;
            }
            self.pending &= !bit;
            let mut address = [0; 8];
            let mut data = [0; 4];
            for (byte, at) in address.iter_mut().chain(&mut data).zip(entry) {
                *byte = *at;
            }
            wires.message(u64::from_le_bytes(address), u32::from_le_bytes(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::wires::tests::{Recorded, Wire};

    fn programmed() -> MsiX {
        let wires = Recorded::default();
        let mut msix = MsiX::new(2);
        msix.write(16, &0xfee0_1000_u64.to_le_bytes(), &wires);
        msix.write(24, &0x41_u32.to_le_bytes(), &wires);
        msix
    }

    #[test]
    fn masked_vector_waits_until_it_is_unmasked() {
        let wires = Recorded::default();
        let mut msix = programmed();
        msix.set_control(ENABLE, &wires);
        msix.fire(1, &wires);
        assert!(wires.taken().is_empty());
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits[0], 2);
        msix.write(28, &0_u32.to_le_bytes(), &wires);
        assert_eq!(wires.taken(), [Wire::Message(0xfee0_1000, 0x41)]);
        msix.read_pending(0, &mut bits);
        assert_eq!(bits[0], 0);
    }

    #[test]
    fn function_mask_holds_every_vector() {
        let wires = Recorded::default();
        let mut msix = programmed();
        msix.write(28, &0_u32.to_le_bytes(), &wires);
        msix.set_control(ENABLE | MASK_ALL, &wires);
        msix.fire(1, &wires);
        assert!(wires.taken().is_empty());
        msix.set_control(ENABLE, &wires);
        assert_eq!(wires.taken(), [Wire::Message(0xfee0_1000, 0x41)]);
    }

    #[test]
    fn vector_outside_the_table_and_writes_past_it_do_nothing() {
        let wires = Recorded::default();
        let mut msix = programmed();
        msix.set_control(ENABLE, &wires);
        msix.fire(2, &wires);
        msix.fire(NO_VECTOR, &wires);
        msix.write(30, &[0; 8], &wires);
        msix.write(u32::MAX, &[0; 8], &wires);
        let mut data = [1; 8];
        msix.read(4096, &mut data);
        assert_eq!(data, [0; 8]);
        assert!(wires.taken().is_empty());
    }
}
