//! A disk on the PCI bus: transport, queue and a thread that serves it.
//!
//! The registers and the queue have locks of their own. A processor that touches registers takes
//! the first, then the second; the serving thread holds one at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rehost_block::{Error, Result};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::block::{Block, QUEUE_SIZE};
use super::pci::Function;
use super::transport::{Asked, NOTIFY, Ring, Transport};
use super::vm::Memory;
use super::wires::Wires;

/// Requests served before the queue's lock is given up for a moment.
const BATCH: u16 = 32;

/// A virtio-blk function.
#[derive(Debug)]
pub(super) struct VirtioDisk {
    transport: Mutex<Transport>,
    ring: Mutex<Ring>,
    block: Block,
    memory: Memory,
    wires: Arc<dyn Wires>,
    bell: EventFd,
    stopping: AtomicBool,
}

impl VirtioDisk {
    /// `block` in `slot` with its BAR at `base`.
    pub(super) fn new(
        slot: u8,
        base: u32,
        block: Block,
        memory: Memory,
        wires: Arc<dyn Wires>,
    ) -> Result<Self> {
        let bell = EventFd::new(0).map_err(|error| Error::io("no event descriptor", error))?;
        let queue = Queue::new(QUEUE_SIZE)
            .map_err(|error| Error::internal("a queue of no size").because(error))?;
        let transport = Transport::new(slot, base, block.personality());
        let disk = Self {
            transport: Mutex::new(transport),
            ring: Mutex::new(Ring { queue, live: false }),
            block,
            memory,
            wires,
            bell,
            stopping: AtomicBool::new(false),
        };
        let bar = disk.transport().space.bar();
        disk.move_bell(None, bar);
        Ok(disk)
    }

    fn transport(&self) -> MutexGuard<'_, Transport> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel ring the bell for writes at the doorbell's new address.
    fn move_bell(&self, old: Option<u64>, new: Option<u64>) {
        if old == new {
            return;
        }
        if let Some(bar) = old {
            self.wires.take_down(&self.bell, bar + u64::from(NOTIFY));
        }
        if let Some(bar) = new {
            self.wires.hang(&self.bell, bar + u64::from(NOTIFY));
        }
    }

    fn ring_bell(&self) {
        // Fails only when the counter is full, and then the bell rings already.
        let _rings_already = self.bell.write(1);
    }

    fn act(&self, asked: Asked) {
        if asked == Asked::Serve {
            self.ring_bell();
        }
    }

    /// Ends [`VirtioDisk::serve`] after the request in hand.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ring_bell();
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Serves requests on the calling thread until [`VirtioDisk::stop`].
    pub(super) fn serve(&self) {
        // Ends when the bell breaks, or rings for the stop.
        while self.bell.read().is_ok() && !self.stopping() {
            // Ends when the queue is empty; a guest that keeps it full is served until the stop.
            while !self.stopping() {
                let batch = self.serve_batch();
                if batch.interrupt {
                    self.transport().interrupt(&*self.wires);
                }
                if !batch.more {
                    break;
                }
            }
        }
    }

    /// Serves at most [`BATCH`] requests. A queue that makes no sense (indices that jump, rings
    /// outside memory) is left alone: the guest broke it for itself.
    fn serve_batch(&self) -> Batch {
        let mut guard = self.ring();
        let Ring { queue, live } = &mut *guard;
        let idle = Batch {
            interrupt: false,
            more: false,
        };
        if !*live
            || !queue.is_valid(&self.memory)
            || queue.disable_notification(&self.memory).is_err()
        {
            return idle;
        }
        let mut served = 0;
        let mut announced = false;
        let mut more = true;
        // Ends after a batch, or when the queue is empty after notifications are back on.
        while served < BATCH && !self.stopping() {
            if let Some(chain) = queue.pop_descriptor_chain(&self.memory) {
                let head = chain.head_index();
                let written = self.block.answer(&self.memory, chain);
                if queue.add_used(&self.memory, head, written).is_err() {
                    *live = false;
                    return idle;
                }
                served += 1;
                announced = false;
            } else if announced {
                // The index announces what the queue does not hold: it would forever.
                *live = false;
                return idle;
            } else if queue.enable_notification(&self.memory).unwrap_or(false) {
                announced = true;
            } else {
                more = false;
                break;
            }
        }
        let interrupt = served > 0 && queue.needs_notification(&self.memory).unwrap_or(true);
        Batch { interrupt, more }
    }
}

/// What came of serving.
struct Batch {
    /// The driver wants to know.
    interrupt: bool,
    /// There may be more requests.
    more: bool,
}

impl Function for VirtioDisk {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        let mut transport = self.transport();
        transport.config_read(offset, data, &self.ring(), &*self.wires);
    }

    fn config_write(&self, offset: u8, data: &[u8]) {
        let mut transport = self.transport();
        let old = transport.space.bar();
        let asked =
            transport.config_write(offset, data, &mut self.ring(), &self.memory, &*self.wires);
        self.move_bell(old, transport.space.bar());
        drop(transport);
        self.act(asked);
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) -> bool {
        let mut transport = self.transport();
        let Some(offset) = transport.space.bar_offset(address, data.len()) else {
            return false;
        };
        transport.read(offset, data, &self.ring(), &*self.wires);
        true
    }

    fn memory_write(&self, address: u64, data: &[u8]) -> bool {
        let mut transport = self.transport();
        let Some(offset) = transport.space.bar_offset(address, data.len()) else {
            return false;
        };
        let asked = transport.write(offset, data, &mut self.ring(), &self.memory, &*self.wires);
        drop(transport);
        self.act(asked);
        true
    }
}

#[cfg(test)]
mod tests {
    use rehost_block::{Memory as Content, Overlay, StorageDisk};
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kvm::wires::tests::{Recorded, Wire};

    const BAR: u32 = 0xc000_8000;
    const WRITABLE: u16 = 2;

    fn disk(memory: &Memory) -> (VirtioDisk, Arc<Recorded>) {
        let wires = Arc::new(Recorded::default());
        let base = StorageDisk::new(Arc::new(Content::new("disk", vec![0x5a; 1 << 20])));
        let block = Block::new(Arc::new(Overlay::in_memory(Arc::new(base))), String::new());
        let disk = VirtioDisk::new(1, BAR, block, memory.clone(), Arc::clone(&wires) as _);
        (disk.unwrap(), wires)
    }

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
    }

    /// Does a driver's set-up, with the rings of `mock`.
    fn drive(disk: &VirtioDisk, mock: &MockSplitQueue<'_, Memory>) {
        let write = |at: u64, data: &[u8]| {
            assert!(disk.memory_write(u64::from(BAR) + at, data));
        };
        write(0x08, &1_u32.to_le_bytes());
        write(0x0c, &1_u32.to_le_bytes());
        write(0x14, &[11]);
        write(0x18, &16_u16.to_le_bytes());
        write(0x20, &mock.desc_table_addr().0.to_le_bytes());
        write(0x28, &mock.avail_addr().0.to_le_bytes());
        write(0x30, &mock.used_addr().0.to_le_bytes());
        write(0x1c, &1_u16.to_le_bytes());
        write(0x14, &[15]);
    }

    fn used(memory: &Memory, mock: &MockSplitQueue<'_, Memory>) -> u16 {
        memory
            .read_obj(GuestAddress(mock.used_addr().0 + 2))
            .unwrap()
    }

    #[test]
    fn bell_follows_the_bar() {
        let (disk, wires) = disk(&memory());
        assert_eq!(wires.taken(), [Wire::Hang(0xc000_b000)]);
        disk.config_write(0x10, &0xd000_0000_u32.to_le_bytes());
        let moved = [Wire::TakeDown(0xc000_b000), Wire::Hang(0xd000_3000)];
        let bells = |taken: Vec<Wire>| -> Vec<Wire> {
            let is_bell = |wire: &Wire| !matches!(wire, Wire::Lower(_));
            taken.into_iter().filter(is_bell).collect()
        };
        assert_eq!(bells(wires.taken()), moved);
        disk.config_write(0x04, &[0, 0]);
        assert_eq!(bells(wires.taken()), [Wire::TakeDown(0xd000_3000)]);
        assert!(!disk.memory_read(0xd000_0000, &mut [0; 4]));
    }

    #[test]
    fn request_is_served_by_the_thread_and_announced() {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 16);
        let (disk, wires) = disk(&memory);
        drive(&disk, &mock);
        let parts = [
            (0x20_0000, 16, 0),
            (0x21_0000, 512, WRITABLE),
            (0x22_0000, 1, WRITABLE),
        ]
        .map(|(at, len, flags)| RawDescriptor::from(Descriptor::new(at, len, flags, 0)));
        mock.build_desc_chain(&parts).unwrap();
        wires.taken();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| disk.serve());
            disk.memory_write(u64::from(BAR + NOTIFY), &[0, 0]);
            // Ends when the request is served; a test that hangs here has failed.
            while used(&memory, &mock) == 0 {
                std::thread::yield_now();
            }
            disk.stop();
            server.join().unwrap();
        });
        let mut data = [0; 512];
        memory
            .read_slice(&mut data, GuestAddress(0x21_0000))
            .unwrap();
        assert_eq!(data, [0x5a; 512]);
        assert_eq!(wires.taken(), [Wire::Raise(1)]);
    }

    #[test]
    fn index_that_announces_more_than_the_queue_holds_ends_the_queue() {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 16);
        let (disk, _) = disk(&memory);
        drive(&disk, &mock);
        memory
            .write_obj(1000_u16, GuestAddress(mock.avail_addr().0 + 2))
            .unwrap();
        let batch = disk.serve_batch();
        assert!(!batch.more && !batch.interrupt);
        assert!(!disk.ring().live);
        assert_eq!(used(&memory, &mock), 0);
    }

    #[test]
    fn reset_takes_the_queue_away() {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 16);
        let (disk, _) = disk(&memory);
        drive(&disk, &mock);
        assert!(disk.ring().live);
        disk.memory_write(u64::from(BAR) + 0x14, &[0]);
        assert!(!disk.ring().live);
        assert!(!disk.serve_batch().more);
    }
}
