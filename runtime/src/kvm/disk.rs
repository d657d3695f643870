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
