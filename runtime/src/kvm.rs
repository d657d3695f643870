//! The built-in engine: a virtual machine monitor on `/dev/kvm`, for x86-64 Linux guests.
//!
//! One or more processors, KVM's own interrupt controllers and timer, a serial port, a PCI bus
//! with a virtio-blk device per disk, ACPI tables, and the guest's kernel placed in memory as a
//! boot loader would. Nothing else: no network, no display, no keyboard, no firmware. Left out on
//! purpose and refused by name: starting by firmware and disks on other buses than virtio-blk,
//! which the QEMU engine has.
//!
//! [`self_test`] says whether `/dev/kvm` can run guests at all.

mod acpi;
mod block;
mod board;
mod boot;
mod clock;
mod cpu;
mod disk;
mod events;
mod layout;
mod msix;
mod pci;
mod ports;
mod processor;
mod self_test;
mod transport;
mod vm;
mod wires;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::Kvm;
use rehost_block::{Error, Result};
use vm_memory::{Address, GuestAddress};

use crate::{Bus, Ended, Engine, Machine, Next, Start, Watch};

use self::block::Block;
use self::board::Board;
use self::disk::VirtioDisk;
use self::events::{Events, Told};
use self::pci::{Function, HostBridge};
use self::vm::Vm;
use self::wires::VmWires;

pub use self::self_test::self_test;

/// The smallest machine that the layout of memory has room for.
const MEMORY_MIB_MIN: u32 = 16;

/// The built-in engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct KvmEngine;

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn run(&self, machine: &Machine, limit: Duration, watch: &mut dyn Watch) -> Result<Ended> {
        let deadline = Instant::now()
            .checked_add(limit)
            .ok_or_else(|| Error::usage("the time limit is not a time"))?;
        let running = Running::start(machine)?;
        let ended = running.watch(deadline, watch);
        running.stop()?;
        Ok(ended)
    }
}

/// A machine whose threads run.
struct Running {
    events: Arc<Events>,
    disks: Vec<Arc<VirtioDisk>>,
    processors: Vec<JoinHandle<()>>,
    servers: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(machine: &Machine) -> Result<Self> {
        let Start::Direct(boot) = &machine.start else {
            return Err(
                Error::unsupported("the built-in engine has no firmware to boot from")
                    .hint("use --engine qemu"),
            );
        };
        check(machine)?;
        processor::prepare_signal()?;
        let kvm = self_test::open()?;
        let ram = layout::ram(u64::from(machine.memory_mib) << 20);
        let vm = Arc::new(Vm::new(&kvm, &ram)?);
        prepare_chips(&vm)?;

        let entry = boot::load(vm.memory(), &ram, boot, layout::ACPI)?;
        acpi::write(vm.memory(), machine.vcpus)?;
        cpu::write_tables(vm.memory())?;

        let events = Arc::new(Events::default());
        let disks = attach(machine, &vm)?;
        let bridge: Arc<dyn Function> = Arc::new(HostBridge::default());
        let functions = std::iter::once(bridge)
            .chain(
                disks
                    .iter()
                    .map(|disk| Arc::clone(disk) as Arc<dyn Function>),
            )
            .collect();
        let board = Board::new(
            Arc::clone(&vm),
            pci::Bus::new(functions),
            Arc::clone(&events),
        );
        let board = Arc::new(board);

        let mut running = Self {
            events: Arc::clone(&events),
            disks,
            processors: Vec::new(),
            servers: Vec::new(),
        };
        match running.start_threads(&kvm, &vm, &board, machine.vcpus, entry) {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop()?;
                Err(error)
            }
        }
    }

    fn start_threads(
        &mut self,
        kvm: &Kvm,
        vm: &Arc<Vm>,
        board: &Arc<Board>,
        count: u8,
        entry: cpu::Entry,
    ) -> Result<()> {
        let supported = cpu::supported_cpuid(kvm)?;
        let mut vcpus = Vec::with_capacity(usize::from(count));
        for id in 0..count {
            let vcpu = vm
                .fd()
                .create_vcpu(u64::from(id))
                .map_err(|error| Error::io("/dev/kvm does not create a processor", error))?;
            vcpu.set_cpuid2(&cpu::cpuid(kvm, &supported, id, count)?)
                .map_err(|error| Error::io("/dev/kvm refuses the processor's CPUID", error))?;
            cpu::set_msrs(&vcpu)?;
            vcpus.push(vcpu);
        }
        // The others wait for the first one's start-up message.
        if let Some(first) = vcpus.first() {
            cpu::enter_long_mode(first, entry)?;
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let disk = Arc::clone(disk);
            let server = thread::Builder::new()
                .name(format!("disk{number}"))
                .spawn(move || disk.serve())
                .map_err(|error| Error::io("cannot start a disk's thread", error))?;
            self.servers.push(server);
        }
        for (id, vcpu) in (0..).zip(vcpus) {
            let (board, events) = (Arc::clone(board), Arc::clone(&self.events));
            self.processors
                .push(processor::start(id, vcpu, board, events)?);
        }
        Ok(())
    }

    /// Passes on what the guest says until the run is over.
    fn watch(&self, deadline: Instant, watch: &mut dyn Watch) -> Ended {
        // Ends at the deadline at the latest.
        loop {
            let next = match self.events.wait(deadline) {
                Told::Serial(bytes) => watch.serial(&bytes),
                Told::Silence => watch.idle(),
                Told::Ended(ended) => return ended,
            };
            if next == Next::Stop {
                self.events.end(Ended::Watched);
                return Ended::Watched;
            }
        }
    }

    /// Stops every thread and waits for it: afterwards nothing writes to the disks.
    fn stop(self) -> Result<()> {
        // Only said to threads that run; whoever ended the run was first.
        self.events.end(Ended::Watched);
        for disk in &self.disks {
            disk.stop();
        }
        let mut sound = true;
        for processor in self.processors {
            // Ends with the thread: a processor looks at the end of the run after every exit.
            while !processor::interrupt(&processor, Duration::from_secs(1)) {}
            sound &= processor.join().is_ok();
        }
        for server in self.servers {
            sound &= server.join().is_ok();
        }
        if sound {
            Ok(())
        } else {
            Err(Error::internal("a thread of the virtual machine panicked"))
        }
    }
}

/// Refuses what this engine does not have.
fn check(machine: &Machine) -> Result<()> {
    if machine.vcpus == 0 {
        return Err(Error::usage("a machine needs at least one processor"));
    }
    if machine.memory_mib < MEMORY_MIB_MIN {
        return Err(
            Error::usage("the machine's memory is too small to boot anything")
                .mismatch(format!("at least {MEMORY_MIB_MIN} MiB"), machine.memory_mib),
        );
    }
    if machine.disks.len() >= usize::from(pci::SLOTS) {
        return Err(
            Error::unsupported("more disks than the built-in engine has slots for")
                .mismatch(pci::SLOTS - 1, machine.disks.len())
                .hint("use --engine qemu"),
        );
    }
    let mut buses = machine.disks.iter().map(|disk| disk.bus);
    let lacking = match buses.find(|bus| *bus != Bus::VirtioBlk) {
        Some(bus) => bus.controller(),
        None if !machine.nics.is_empty() => "network card",
        None => return Ok(()),
    };
    Err(
        Error::unsupported(format!("the built-in engine has no {lacking}"))
            .hint("use --engine qemu"),
    )
}

/// Interrupt controllers and timer, which KVM has itself.
fn prepare_chips(vm: &Vm) -> Result<()> {
    let failed = |what: &'static str| {
        move |error: kvm_ioctls::Error| Error::io(format!("/dev/kvm has no {what}"), error)
    };
    let fd = vm.fd();
    fd.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(failed("identity map"))?;
    fd.set_tss_address(layout::TSS)
        .map_err(failed("task state segment"))?;
    fd.create_irq_chip()
        .map_err(failed("interrupt controllers"))?;
    fd.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .map_err(failed("interval timer"))
}

/// The machine's disks, in slots from 1 on, their BARs side by side from the gap's start.
fn attach(machine: &Machine, vm: &Arc<Vm>) -> Result<Vec<Arc<VirtioDisk>>> {
    let wires = Arc::new(VmWires::new(Arc::clone(vm)));
    let mut disks = Vec::with_capacity(machine.disks.len());
    for (slot, disk) in (1_u8..).zip(&machine.disks) {
        let base = GuestAddress(layout::GAP)
            .unchecked_add(u64::from(slot) * u64::from(transport::BAR_SIZE));
        let base =
            u32::try_from(base.raw_value()).map_err(|_| Error::internal("a BAR beyond 4 GiB"))?;
        let name = format!("rehost-disk{}", slot - 1);
        let block = Block::new(Arc::clone(&disk.disk), name);
        let wires = Arc::clone(&wires) as Arc<dyn wires::Wires>;
        disks.push(Arc::new(VirtioDisk::new(
            slot,
            base,
            block,
            vm.memory().clone(),
            wires,
        )?));
    }
    Ok(disks)
}
