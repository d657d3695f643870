//! The threads that run virtual processors, and how they are stopped.
//!
//! A processor is stopped by a signal whose only effect is to interrupt `KVM_RUN`. A signal that
//! comes just before `KVM_RUN` is lost, so it is sent again until the thread has ended.

use std::os::raw::{c_int, c_void};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};
use rehost_block::{Error, Result};
use rustix::io::Errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::board::Board;
use super::events::Events;
use super::vm::internal_error;
use crate::Ended;

/// How long between two signals to a thread that has not ended.
const AGAIN: Duration = Duration::from_millis(2);

/// `KVM_INTERNAL_ERROR_*` of `linux/kvm.h`.
const INTERNAL_ERRORS: [(u32, &str); 4] = [
    (1, "an instruction that KVM cannot emulate"),
    (2, "an exception during an exception"),
    (3, "an event that KVM cannot deliver"),
    (4, "an exit that KVM did not expect"),
];

extern "C" fn interrupt_only<T>(_: c_int, _: *mut T, _: *mut c_void) {}

fn signal_number() -> c_int {
    SIGRTMIN() + 7
}

/// Installs the signal's handler for the whole process; it may be installed any number of times.
pub(super) fn prepare_signal() -> Result<()> {
    register_signal_handler(signal_number(), interrupt_only)
        .map_err(|error| Error::io("cannot install a signal handler", error))
}

/// Interrupts `thread` until it ends, for at most `patience`; says whether it ended.
pub(super) fn interrupt<T>(thread: &JoinHandle<T>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    // Ends with the thread or at the deadline.
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        // Fails only for a thread that has just ended.
        let _ended_meanwhile = thread.kill(signal_number());
        thread::sleep(AGAIN);
    }
    true
}

/// Starts a thread that runs `vcpu` until `events` says that the run is over.
pub(super) fn start(
    number: u8,
    mut vcpu: VcpuFd,
    board: Arc<Board>,
    events: Arc<Events>,
) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("vcpu{number}"))
        .spawn(move || {
            // Ends with the run, which has a time limit: the running thread interrupts KVM_RUN.
            while !events.over() {
                if let Some(ended) = step(&mut vcpu, &board) {
                    events.end(ended);
                }
            }
        })
        .map_err(|error| Error::io("cannot start a processor's thread", error))
}

/// Runs `vcpu` until it needs something from the board; says how the run ended if it did.
fn step(vcpu: &mut VcpuFd, board: &Board) -> Option<Ended> {
    match vcpu.run() {
        Ok(VcpuExit::IoIn(port, data)) => board.port_read(port, data),
        Ok(VcpuExit::IoOut(port, data)) => board.port_write(port, data),
        Ok(VcpuExit::MmioRead(address, data)) => board.memory_read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => board.memory_write(address, data),
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
        // A triple fault.
        Ok(VcpuExit::Shutdown) => return Some(Ended::Reset),
        Ok(VcpuExit::SystemEvent(kind, _)) => {
            return Some(match kind {
                kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Ended::PoweredOff,
                kvm_bindings::KVM_SYSTEM_EVENT_RESET => Ended::Reset,
                other => Ended::Failed(format!("the guest ended with KVM system event {other}")),
            });
        }
        Ok(VcpuExit::InternalError) => return Some(Ended::Failed(internal(vcpu))),
        Ok(VcpuExit::FailEntry(reason, _)) => {
            return Some(Ended::Failed(format!(
                "the processor refused to run the guest (hardware entry failure {reason:#x})"
            )));
        }
        Ok(other) => {
            return Some(Ended::Failed(format!("KVM stopped the guest: {other:?}")));
        }
        Err(error) if again(&error) => {}
        Err(error) => return Some(Ended::Failed(format!("KVM_RUN failed: {error}"))),
    }
    None
}

/// Whether `KVM_RUN` was only interrupted, or a processor that waits for its start was woken.
pub(super) fn again(error: &kvm_ioctls::Error) -> bool {
    [Errno::INTR, Errno::AGAIN].contains(&Errno::from_raw_os_error(error.errno()))
}

/// What KVM says about its internal error, and where the guest was.
pub(super) fn internal(vcpu: &mut VcpuFd) -> String {
    let number = internal_error(vcpu).unwrap_or(0);
    let name = INTERNAL_ERRORS
        .iter()
        .find(|(known, _)| *known == number)
        .map_or("an internal error", |(_, name)| *name);
    let place = vcpu
        .get_regs()
        .map_or_else(|_| String::new(), |regs| format!(" at rip {:#x}", regs.rip));
    format!("KVM stopped at {name} (internal error {number}){place}")
}
