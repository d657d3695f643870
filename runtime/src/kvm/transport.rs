//! virtio over PCI: the registers of a device with one queue.
//!
//! Virtual I/O Device (VIRTIO) 1.2, section 4.1: modern interface only, one memory BAR with the
//! common, interrupt-status, device and notification structures and the MSI-X table. Leaves out
//! on purpose: the legacy interface, queue reset, notification data, shared memory.

use virtio_queue::{Queue, QueueT};

use super::msix::{self, MsiX, NO_VECTOR};
use super::pci::{ConfigSpace, Identity};
use super::vm::Memory;
use super::wires::Wires;

/// Bytes of BAR 0, and where its structures are.
pub(super) const BAR_SIZE: u32 = 0x8000;
const COMMON: u32 = 0x0000;
const COMMON_LEN: u32 = 0x38;
const INTERRUPT_STATUS: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
pub(super) const NOTIFY: u32 = 0x3000;
const MSIX_TABLE: u32 = 0x4000;
const MSIX_PENDING: u32 = 0x5000;
const STRUCTURE_LEN: u32 = 0x1000;

/// Queue 0, and configuration changes.
const VECTORS: u16 = 2;

const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
/// `cfg_type` of the capabilities (section 4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// `device_status` bits (section 2.1).
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;

/// `VIRTIO_F_RING_INDIRECT_DESC`, `VIRTIO_F_EVENT_IDX`, `VIRTIO_F_VERSION_1`.
const INDIRECT_DESCRIPTORS: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Interrupt status: the queue has been used.
const QUEUE_INTERRUPT: u8 = 1;

/// What a kind of virtio device adds to the transport.
#[derive(Debug, Clone)]
pub(super) struct Personality {
    /// `VIRTIO_ID_*`.
    pub(super) id: u16,
    /// PCI base class and subclass.
    pub(super) class: (u8, u8),
    /// The device's own feature bits.
    pub(super) features: u64,
    /// The device configuration structure; writes to it are ignored.
    pub(super) config: Vec<u8>,
}

/// The queue, once the driver said that it is ready.
#[derive(Debug)]
pub(super) struct Ring {
    /// The queue.
    pub(super) queue: Queue,
    /// Whether the driver finished its set-up.
    pub(super) live: bool,
}

/// What a write to the registers asks the device to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing more.
    Nothing,
    /// Look at the queue.
    Serve,
}

/// Configuration space and registers.
#[derive(Debug)]
pub(super) struct Transport {
    /// PCI configuration space.
    pub(super) space: ConfigSpace,
    slot: u8,
    personality: Personality,
    msix: MsiX,
    msix_capability: u8,
    window: u8,
    interrupt_status: u8,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_vector: u16,
    queue_select: u16,
    status: u8,
}

impl Transport {
    /// The registers of a device in `slot`, with its BAR at `base`.
    pub(super) fn new(slot: u8, base: u32, personality: Personality) -> Self {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1040 + personality.id,
            revision: 1,
            class: personality.class,
            subsystem: (0x1af4, personality.id),
        })
        .with_bar_and_interrupt(base, BAR_SIZE);
        for (kind, offset, len) in [
            (COMMON_CFG, COMMON, COMMON_LEN),
            (ISR_CFG, INTERRUPT_STATUS, STRUCTURE_LEN),
            (DEVICE_CFG, DEVICE, STRUCTURE_LEN),
        ] {
            space.add_capability(CAPABILITY_VENDOR, &structure(16, kind, offset, len), &[]);
        }
        // Every queue has the same doorbell: notify_off_multiplier 0.
        let mut notify = structure(20, NOTIFY_CFG, NOTIFY, STRUCTURE_LEN);
        notify.extend_from_slice(&[0; 4]);
        space.add_capability(CAPABILITY_VENDOR, &notify, &[]);
        // The window into the BAR: BAR, offset and length are the driver's; the data that
        // follows is not stored.
        let mut through = structure(20, PCI_CFG, 0, 0);
        through.extend_from_slice(&[0; 4]);
        let mut writable = [0; 14];
        writable[2] = 0xff;
        writable[6..14].fill(0xff);
        let window = space.add_capability(CAPABILITY_VENDOR, &through, &writable);
        let mut table = (VECTORS - 1).to_le_bytes().to_vec();
        table.extend_from_slice(&MSIX_TABLE.to_le_bytes());
        table.extend_from_slice(&MSIX_PENDING.to_le_bytes());
        let control = (msix::ENABLE | msix::MASK_ALL).to_le_bytes();
        let msix_capability = space.add_capability(CAPABILITY_MSIX, &table, &control);
        Self {
            space,
            slot,
            personality,
            msix: MsiX::new(VECTORS),
            msix_capability,
            window,
            interrupt_status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            queue_vector: NO_VECTOR,
            queue_select: 0,
            status: 0,
        }
    }

    fn features(&self) -> u64 {
        self.personality.features | INDIRECT_DESCRIPTORS | EVENT_IDX | VERSION_1
    }

    /// Interrupts because the queue was used.
    pub(super) fn interrupt(&mut self, wires: &dyn Wires) {
        if self.msix.enabled() {
            self.msix.fire(self.queue_vector, wires);
            return;
        }
        self.interrupt_status |= QUEUE_INTERRUPT;
        self.drive_pin(wires);
    }

    /// Makes the pin say what the interrupt status says.
    fn drive_pin(&mut self, wires: &dyn Wires) {
        let pending = self.interrupt_status != 0;
        self.space.show_interrupt(pending);
        if pending && self.space.pin_allowed() && !self.msix.enabled() {
            wires.raise(self.slot);
        } else {
            wires.lower(self.slot);
        }
    }

    /// Reads configuration space, its window into the BAR included.
    pub(super) fn config_read(
        &mut self,
        offset: u8,
        data: &mut [u8],
        ring: &Ring,
        wires: &dyn Wires,
    ) {
        match self.window_target(offset, data.len()) {
            Some(target) => self.read(target, data, ring, wires),
            None => self.space.read(offset, data),
        }
    }

    /// Writes configuration space, its window into the BAR included.
    pub(super) fn config_write(
        &mut self,
        offset: u8,
        data: &[u8],
        ring: &mut Ring,
        memory: &Memory,
        wires: &dyn Wires,
    ) -> Asked {
        if let Some(target) = self.window_target(offset, data.len()) {
            return self.write(target, data, ring, memory, wires);
        }
        self.space.write(offset, data);
        let [_, _, low, high] = self.space.u32(self.msix_capability).to_le_bytes();
        self.msix
            .set_control(u16::from_le_bytes([low, high]), wires);
        self.drive_pin(wires);
        Asked::Nothing
    }

    /// Where in the BAR an access to `pci_cfg_data` goes (section 4.1.4.9).
    fn window_target(&self, offset: u8, len: usize) -> Option<u32> {
        if offset != self.window + 16 || self.space.u8(self.window + 4) != 0 {
            return None;
        }
        let target = self.space.u32(self.window + 8);
        let wanted = usize::try_from(self.space.u32(self.window + 12)).ok()?;
        let end = target.checked_add(self.space.u32(self.window + 12))?;
        (matches!(wanted, 1 | 2 | 4) && wanted == len && end <= BAR_SIZE).then_some(target)
    }

    /// Reads the BAR at `offset`.
    pub(super) fn read(&mut self, offset: u32, data: &mut [u8], ring: &Ring, wires: &dyn Wires) {
        data.fill(0);
        let within = offset % STRUCTURE_LEN;
        match offset - within {
            COMMON => copy_from(&self.common(ring), within, data),
            INTERRUPT_STATUS if within == 0 => {
                if let Some(first) = data.first_mut() {
                    *first = std::mem::take(&mut self.interrupt_status);
                    self.drive_pin(wires);
                }
            }
            DEVICE => copy_from(&self.personality.config, within, data),
            MSIX_TABLE => self.msix.read(within, data),
            MSIX_PENDING => self.msix.read_pending(within, data),
            _ => {}
        }
    }

    /// The common configuration structure (section 4.1.4.3) as it reads now.
    fn common(&self, ring: &Ring) -> [u8; COMMON_LEN as usize] {
        let mut bytes = [0; COMMON_LEN as usize];
        let mut put = |at: usize, value: &[u8]| {
            for (slot, byte) in bytes.iter_mut().skip(at).zip(value) {
                *slot = *byte;
            }
        };
        let half = |all: u64, select: u32| match select {
            0 => (all & u64::from(u32::MAX)) as u32,
            1 => (all >> 32) as u32,
            _ => 0,
        };
        put(0x00, &self.device_features_select.to_le_bytes());
        put(
            0x04,
            &half(self.features(), self.device_features_select).to_le_bytes(),
        );
        put(0x08, &self.driver_features_select.to_le_bytes());
        put(
            0x0c,
            &half(self.driver_features, self.driver_features_select).to_le_bytes(),
        );
        put(0x10, &self.config_vector.to_le_bytes());
        put(0x12, &1_u16.to_le_bytes()); // num_queues
        put(0x14, &[self.status, 0]); // the configuration never changes
        put(0x16, &self.queue_select.to_le_bytes());
        if self.queue_select == 0 {
            let queue = &ring.queue;
            put(0x18, &queue.size().to_le_bytes());
            put(0x1a, &self.queue_vector.to_le_bytes());
            put(0x1c, &u16::from(queue.ready()).to_le_bytes());
            put(0x20, &queue.desc_table().to_le_bytes());
            put(0x28, &queue.avail_ring().to_le_bytes());
            put(0x30, &queue.used_ring().to_le_bytes());
        } else {
            put(0x1a, &NO_VECTOR.to_le_bytes());
        }
        bytes
    }

    /// Writes the BAR at `offset`.
    pub(super) fn write(
        &mut self,
        offset: u32,
        data: &[u8],
        ring: &mut Ring,
        memory: &Memory,
        wires: &dyn Wires,
    ) -> Asked {
        let within = offset % STRUCTURE_LEN;
        match offset - within {
            COMMON => return self.write_common(within, data, ring, memory, wires),
            NOTIFY => return Asked::Serve,
            MSIX_TABLE => self.msix.write(within, data, wires),
            _ => {}
        }
        Asked::Nothing
    }

    fn write_common(
        &mut self,
        at: u32,
        data: &[u8],
        ring: &mut Ring,
        memory: &Memory,
        wires: &dyn Wires,
    ) -> Asked {
        // Fields are written whole; the 64-bit ones also by halves (section 4.1.3.1).
        if let (0x20..=0x37, [low @ .., a, b, c, d]) = (at, data)
            && low.len() == 4
        {
            self.write_common(at, low, ring, memory, wires);
            return self.write_common(at + 4, &[*a, *b, *c, *d], ring, memory, wires);
        }
        let value = match *data {
            [a] => u32::from(a),
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return Asked::Nothing,
        };
        let word = (value & 0xffff) as u16;
        match (at, data.len()) {
            (0x00, 4) => self.device_features_select = value,
            (0x08, 4) => self.driver_features_select = value,
            (0x0c, 4) if self.status & STATUS_FEATURES_OK == 0 => {
                let old = self.driver_features;
                match self.driver_features_select {
                    0 => self.driver_features = old & !u64::from(u32::MAX) | u64::from(value),
                    1 => {
                        self.driver_features = old & u64::from(u32::MAX) | u64::from(value) << 32;
                    }
                    _ => {}
                }
            }
            (0x10, 2) => self.config_vector = self.vector(word),
            (0x14, 1) => return self.write_status((value & 0xff) as u8, ring, memory, wires),
            (0x16, 2) => self.queue_select = word,
            (0x1a, 2) if self.queue_select == 0 => self.queue_vector = self.vector(word),
            _ if self.queue_select == 0 && !ring.live => write_queue(at, data.len(), value, ring),
            _ => {}
        }
        Asked::Nothing
    }

    /// A vector that exists, or none: the driver reads back whether it got it.
    fn vector(&self, asked: u16) -> u16 {
        if self.msix.has(asked) {
            asked
        } else {
            NO_VECTOR
        }
    }

    fn write_status(
        &mut self,
        status: u8,
        ring: &mut Ring,
        memory: &Memory,
        wires: &dyn Wires,
    ) -> Asked {
        if status == 0 {
            self.reset(ring, wires);
            return Asked::Nothing;
        }
        let fresh = status & !self.status;
        self.status = status;
        if fresh & STATUS_FEATURES_OK != 0 {
            let known = self.driver_features & !self.features() == 0;
            if !known || self.driver_features & VERSION_1 == 0 {
                // The driver reads the bit back and gives up (section 3.1.1, step 6).
                self.status &= !STATUS_FEATURES_OK;
            }
        }
        let ready = self.status & STATUS_FEATURES_OK != 0;
        if fresh & STATUS_DRIVER_OK != 0 && ready && ring.queue.is_valid(memory) {
            ring.queue
                .set_event_idx(self.driver_features & EVENT_IDX != 0);
            ring.live = true;
            return Asked::Serve;
        }
        Asked::Nothing
    }

    fn reset(&mut self, ring: &mut Ring, wires: &dyn Wires) {
        ring.live = false;
        ring.queue.reset();
        self.msix.forget_pending();
        self.interrupt_status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.queue_vector = NO_VECTOR;
        self.queue_select = 0;
        self.status = 0;
        self.drive_pin(wires);
    }
}

/// The body of a `virtio_pci_cap`: its length, kind, BAR 0, and place.
fn structure(cap_len: u8, kind: u8, offset: u32, len: u32) -> Vec<u8> {
    let mut body = vec![cap_len, kind, 0, 0, 0, 0];
    body.extend_from_slice(&offset.to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    body
}

fn copy_from(bytes: &[u8], from: u32, data: &mut [u8]) {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    for (slot, byte) in data.iter_mut().zip(bytes.iter().skip(from)) {
        *slot = *byte;
    }
}

/// The registers of the queue, until the driver is done with its set-up. Values that make no
/// queue are refused by the queue itself, or found before it is used.
fn write_queue(at: u32, len: usize, value: u32, ring: &mut Ring) {
    let queue = &mut ring.queue;
    match (at, len) {
        (0x18, 2) => queue.set_size((value & 0xffff) as u16),
        (0x1c, 2) => queue.set_ready(value == 1),
        (0x20, 4) => queue.set_desc_table_address(Some(value), None),
        (0x24, 4) => queue.set_desc_table_address(None, Some(value)),
        (0x28, 4) => queue.set_avail_ring_address(Some(value), None),
        (0x2c, 4) => queue.set_avail_ring_address(None, Some(value)),
        (0x30, 4) => queue.set_used_ring_address(Some(value), None),
        (0x34, 4) => queue.set_used_ring_address(None, Some(value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::kvm::wires::tests::{Recorded, Wire};

    struct Bench {
        transport: Transport,
        ring: Ring,
        memory: Memory,
        wires: Recorded,
    }

    impl Bench {
        fn new() -> Self {
            let personality = Personality {
                id: 2,
                class: (1, 0),
                features: 1 << 9,
                config: vec![1, 2, 3, 4],
            };
            Self {
                transport: Transport::new(1, 0xc000_0000, personality),
                ring: Ring {
                    queue: Queue::new(256).unwrap(),
                    live: false,
                },
                memory: Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap(),
                wires: Recorded::default(),
            }
        }

        fn read<const N: usize>(&mut self, at: u32) -> [u8; N] {
            let mut data = [0xee; N];
            self.transport.read(at, &mut data, &self.ring, &self.wires);
            data
        }

        fn write(&mut self, at: u32, data: &[u8]) -> Asked {
            self.transport
                .write(at, data, &mut self.ring, &self.memory, &self.wires)
        }

        fn config(&mut self, at: u8) -> u8 {
            self.transport.space.u8(at)
        }

        fn set_up(&mut self) -> Asked {
            self.write(0x14, &[1]);
            self.write(0x14, &[3]);
            self.write(0x08, &1_u32.to_le_bytes());
            self.write(0x0c, &1_u32.to_le_bytes());
            self.write(0x14, &[11]);
            assert_eq!(self.read::<1>(0x14), [11]);
            self.write(0x18, &64_u16.to_le_bytes());
            self.write(0x20, &0x1000_u64.to_le_bytes());
            self.write(0x28, &0x2000_u64.to_le_bytes());
            self.write(0x30, &0x3000_u32.to_le_bytes());
            self.write(0x34, &0_u32.to_le_bytes());
            self.write(0x1c, &1_u16.to_le_bytes());
            self.write(0x14, &[15])
        }
    }

    #[test]
    fn capabilities_name_every_structure_once() {
        let mut bench = Bench::new();
        let mut at = bench.config(0x34);
        let mut kinds = Vec::new();
        while at != 0 {
            kinds.push(match bench.config(at) {
                CAPABILITY_VENDOR => bench.config(at + 3),
                other => other,
            });
            at = bench.config(at + 1);
        }
        assert_eq!(kinds, [1, 3, 4, 2, 5, CAPABILITY_MSIX]);
    }

    #[test]
    fn driver_sets_the_queue_up_and_the_device_starts() {
        let mut bench = Bench::new();
        assert_eq!(bench.set_up(), Asked::Serve);
        assert!(bench.ring.live);
        assert_eq!(bench.read::<2>(0x18), 64_u16.to_le_bytes());
        assert_eq!(bench.read::<8>(0x28), 0x2000_u64.to_le_bytes());
        // A running queue does not move.
        bench.write(0x20, &0x9000_u32.to_le_bytes());
        assert_eq!(bench.read::<4>(0x20), 0x1000_u32.to_le_bytes());
        bench.write(0x14, &[0]);
        assert!(!bench.ring.live);
        assert_eq!(bench.read::<2>(0x18), 256_u16.to_le_bytes());
    }

    #[test]
    fn features_the_device_lacks_or_a_legacy_driver_are_not_accepted() {
        for (low, high) in [(1_u32 << 5, 1_u32), (0, 0)] {
            let mut bench = Bench::new();
            bench.write(0x08, &0_u32.to_le_bytes());
            bench.write(0x0c, &low.to_le_bytes());
            bench.write(0x08, &1_u32.to_le_bytes());
            bench.write(0x0c, &high.to_le_bytes());
            bench.write(0x14, &[11]);
            assert_eq!(bench.read::<1>(0x14), [3]);
        }
    }

    #[test]
    fn queue_outside_memory_never_starts() {
        let mut bench = Bench::new();
        bench.write(0x20, &u64::MAX.to_le_bytes());
        bench.write(0x24, &[0xff; 4]);
        bench.write(0x08, &1_u32.to_le_bytes());
        bench.write(0x0c, &1_u32.to_le_bytes());
        bench.write(0x1c, &1_u16.to_le_bytes());
        bench.write(0x14, &[15]);
        assert!(!bench.ring.live);
    }

    #[test]
    fn pin_is_raised_by_an_interrupt_and_lowered_by_reading_the_status() {
        let mut bench = Bench::new();
        bench.transport.interrupt(&bench.wires);
        assert_eq!(bench.wires.taken(), [Wire::Raise(1)]);
        assert_eq!(bench.read::<1>(INTERRUPT_STATUS), [1]);
        assert_eq!(bench.wires.taken(), [Wire::Lower(1)]);
        assert_eq!(bench.read::<1>(INTERRUPT_STATUS), [0]);
    }

    #[test]
    fn disabled_pin_stays_down() {
        let mut bench = Bench::new();
        bench.transport.space.write(4, &0x0402_u16.to_le_bytes());
        bench.transport.interrupt(&bench.wires);
        assert_eq!(bench.wires.taken(), [Wire::Lower(1)]);
    }

    #[test]
    fn message_replaces_the_pin_once_enabled() {
        let mut bench = Bench::new();
        let control = bench.transport.msix_capability + 2;
        bench.write(MSIX_TABLE + 16, &0xfee0_0000_u32.to_le_bytes());
        bench.write(MSIX_TABLE + 24, &0x31_u32.to_le_bytes());
        bench.write(MSIX_TABLE + 28, &0_u32.to_le_bytes());
        bench.write(0x1a, &1_u16.to_le_bytes());
        assert_eq!(bench.read::<2>(0x1a), [1, 0]);
        let (transport, ring) = (&mut bench.transport, &mut bench.ring);
        transport.config_write(control, &[1, 0x80], ring, &bench.memory, &bench.wires);
        bench.wires.taken();
        bench.transport.interrupt(&bench.wires);
        assert_eq!(bench.wires.taken(), [Wire::Message(0xfee0_0000, 0x31)]);
        bench.write(0x1a, &9_u16.to_le_bytes());
        assert_eq!(bench.read::<2>(0x1a), NO_VECTOR.to_le_bytes());
    }

    #[test]
    fn window_in_configuration_space_reaches_the_device_configuration() {
        let mut bench = Bench::new();
        let window = bench.transport.window;
        bench
            .transport
            .space
            .write(window + 8, &DEVICE.to_le_bytes());
        bench
            .transport
            .space
            .write(window + 12, &4_u32.to_le_bytes());
        let mut data = [0; 4];
        let (transport, ring) = (&mut bench.transport, &bench.ring);
        transport.config_read(window + 16, &mut data, ring, &bench.wires);
        assert_eq!(data, [1, 2, 3, 4]);
        // A window past the BAR reads as plain configuration space.
        transport.space.write(window + 8, &u32::MAX.to_le_bytes());
        transport.config_read(window + 16, &mut data, ring, &bench.wires);
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn odd_accesses_anywhere_in_the_bar_do_no_harm() {
        let mut bench = Bench::new();
        for at in (0..BAR_SIZE).step_by(7) {
            for len in [1, 2, 3, 4, 8] {
                bench.write(at, &[0xff; 8][..len]);
                let mut data = [0; 8];
                bench
                    .transport
                    .read(at, &mut data[..len], &bench.ring, &bench.wires);
            }
        }
    }
}
