//! Whether `/dev/kvm` can run a kernel: found out by running what a kernel needs.
//!
//! A `/dev/kvm` that opens proves little: some interpret the guest's supervisor code and stop at
//! the first `cmpxchg16b`, vector instruction or breakpoint, half a minute into a boot. The
//! payload uses all three in 64-bit mode and then says a word that only a right run can say.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use rehost_block::{Error, Result};
use vm_memory::{Bytes, GuestAddress};

use super::cpu::{self, Entry};
use super::processor;
use super::vm::Vm;

/// How long the payload may take; on hardware it takes microseconds.
const LIMIT: Duration = Duration::from_secs(1);
/// How long a processor may take to stop when it is told to.
const PATIENCE: Duration = Duration::from_secs(1);

const MEMORY: u64 = 2 << 20;
const CODE: u64 = 0x10_0000;
/// Where `int3` leads.
const BREAKPOINT: u64 = CODE + 0x100;
/// Descriptor table with an entry for vector 3 only, and the operand of `lidt`.
const IDT: u64 = 0x11_0000;
const IDT_LIMIT: u16 = 4 * 16 - 1;
const IDT_POINTER: u64 = 0x11_1000;
/// 16 bytes for `cmpxchg16b`, and 16 for SSE2.
const OPERAND: u64 = 0x11_2000;
const STACK: u64 = 0x12_0000;
/// The port the payload speaks on.
const PORT: u16 = 0xf4;
/// What it says: every step adds its own bits to `edi`, and takes part in the sum.
const RIGHT: u32 = 0x5ca1_ab1e;

/// Steps: `edi` starts at 0x5ca1_0000; a right exchange adds 0xab00, the breakpoint 0x1d, and
/// the vector sum 1.
#[rustfmt::skip]
const PAYLOAD: &[u8] = &[
    0x0f, 0x01, 0x1c, 0x25, 0x00, 0x10, 0x11, 0x00, // lidt [0x111000]
    0xbf, 0x00, 0x00, 0xa1, 0x5c,                   // mov edi, 0x5ca10000
    0xbe, 0x00, 0x20, 0x11, 0x00,                   // mov esi, 0x112000
    // The operand is 1:0; it is compared with rdx:rax = 1:0 and becomes rcx:rbx = 3:2.
    0x31, 0xc0,                                     // xor eax, eax
    0xba, 0x01, 0x00, 0x00, 0x00,                   // mov edx, 1
    0xbb, 0x02, 0x00, 0x00, 0x00,                   // mov ebx, 2
    0xb9, 0x03, 0x00, 0x00, 0x00,                   // mov ecx, 3
    0xf0, 0x48, 0x0f, 0xc7, 0x0e,                   // lock cmpxchg16b [rsi]
    0x75, 0x06,                                     // jne +6
    0x81, 0xc7, 0x00, 0xab, 0x00, 0x00,             // add edi, 0xab00
    // Its handler adds 0x1d to edi.
    0xcc,                                           // int3
    // Both halves of the operand doubled: 6:4. Half of the low one, less 1, is 1.
    0x66, 0x0f, 0x6f, 0x06,                         // movdqa xmm0, [rsi]
    0x66, 0x0f, 0xd4, 0xc0,                         // paddq xmm0, xmm0
    0x66, 0x0f, 0x7f, 0x06,                         // movdqa [rsi], xmm0
    0x8b, 0x06,                                     // mov eax, [rsi]
    0xd1, 0xe8,                                     // shr eax, 1
    0xff, 0xc8,                                     // dec eax
    0x01, 0xc7,                                     // add edi, eax
    0x89, 0xf8,                                     // mov eax, edi
    0xba, 0xf4, 0x00, 0x00, 0x00,                   // mov edx, 0xf4
    0xef,                                           // out dx, eax
    0xf4,                                           // hlt
];

#[rustfmt::skip]
const HANDLER: &[u8] = &[
    0x83, 0xc7, 0x1d,                               // add edi, 0x1d
    0x48, 0xcf,                                     // iretq
];

/// Runs the payload on `/dev/kvm`, for a second at most (and another to stop it).
///
/// # Errors
/// Unsupported, in one sentence, when `/dev/kvm` is absent, may not be opened, or does not run it
/// rightly.
pub fn self_test() -> Result<()> {
    let kvm = open()?;
    processor::prepare_signal()?;
    let machine =
        prepare(&kvm).map_err(|error| cannot("does not take a 64-bit guest").because(error))?;
    let (said, heard) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("self-test".to_owned())
        .spawn(move || {
            let (_vm, mut vcpu) = machine;
            let _nobody_waits_any_more = said.send(run(&mut vcpu));
        })
        .map_err(|error| Error::io("cannot start the self-test's thread", error))?;
    let outcome = heard.recv_timeout(LIMIT);
    // A processor that cannot even be stopped is left behind with its memory, which it owns.
    processor::interrupt(&thread, PATIENCE);
    match outcome {
        Ok(Said::Word(RIGHT)) => Ok(()),
        Ok(Said::Word(word)) => Err(cannot(&format!(
            "computes wrongly (the self-test said {word:#x} instead of {RIGHT:#x})"
        ))),
        Ok(Said::Stopped(why)) => Err(cannot(&format!("cannot run a kernel: {why}"))),
        Err(_) => Err(cannot(
            "did not finish a few dozen instructions in a second",
        )),
    }
}

/// Opens `/dev/kvm` and checks that it speaks the one API there is.
pub(super) fn open() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|error| {
        cannot("cannot be opened").because(std::io::Error::from_raw_os_error(error.errno()))
    })?;
    let version = kvm.get_api_version();
    if version != kvm_bindings::KVM_API_VERSION.cast_signed() {
        return Err(cannot(&format!(
            "speaks version {version} of its API, not 12"
        )));
    }
    Ok(kvm)
}

fn cannot(why: &str) -> Error {
    Error::unsupported(format!("/dev/kvm {why}")).hint("use --engine qemu")
}

fn prepare(kvm: &Kvm) -> Result<(Vm, VcpuFd)> {
    let vm = Vm::new(kvm, &[(GuestAddress(0), MEMORY)])?;
    let memory = vm.memory();
    cpu::write_tables(memory)?;
    let mut gate = [0; 16];
    let [a, b, c, d, ..] = BREAKPOINT.to_le_bytes();
    // 64-bit interrupt gate: offset, selector 0x10, present (Intel SDM volume 3, figure 6-8).
    for (slot, byte) in gate.iter_mut().zip([a, b, 0x10, 0, 0, 0x8e, c, d]) {
        *slot = byte;
    }
    let mut pointer = IDT_LIMIT.to_le_bytes().to_vec();
    pointer.extend_from_slice(&IDT.to_le_bytes());
    let mut operand = [0_u8; 16];
    if let Some(high) = operand.get_mut(8) {
        *high = 1;
    }
    for (at, bytes) in [
        (CODE, PAYLOAD),
        (BREAKPOINT, HANDLER),
        (IDT + 3 * 16, &gate),
        (IDT_POINTER, &pointer),
        (OPERAND, &operand),
    ] {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|error| Error::internal("the self-test exceeds its memory").because(error))?;
    }
    let vcpu = vm
        .fd()
        .create_vcpu(0)
        .map_err(|error| Error::io("no virtual processor", error))?;
    let supported = cpu::supported_cpuid(kvm)?;
    vcpu.set_cpuid2(&cpu::cpuid(kvm, &supported, 0, 1)?)
        .map_err(|error| Error::io("the processor's CPUID is refused", error))?;
    let entry = Entry {
        rip: CODE,
        rsp: STACK,
        rsi: 0,
    };
    cpu::enter_long_mode(&vcpu, entry)?;
    Ok((vm, vcpu))
}

/// What the payload came to.
enum Said {
    Word(u32),
    Stopped(String),
}

fn run(vcpu: &mut VcpuFd) -> Said {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(PORT, data)) => match data.try_into() {
            Ok(word) => Said::Word(u32::from_le_bytes(word)),
            Err(_) => Said::Stopped("it lost part of an output".to_owned()),
        },
        Ok(VcpuExit::InternalError) => Said::Stopped(processor::internal(vcpu)),
        Ok(VcpuExit::Shutdown) => Said::Stopped("the self-test ended in a triple fault".to_owned()),
        Ok(exit) => Said::Stopped(format!("the self-test stopped with {exit:?}")),
        Err(error) => Said::Stopped(format!("KVM_RUN failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_payload_do_not_overlap() {
        assert!(CODE + (PAYLOAD.len() as u64) < BREAKPOINT);
        assert!(BREAKPOINT + (HANDLER.len() as u64) < IDT);
        assert_eq!(OPERAND % 16, 0);
        assert_eq!(RIGHT, 0x5ca1_0000 + 0xab00 + 0x1d + 1);
    }

    #[test]
    fn verdict_comes_in_one_sentence_and_in_time() {
        // Right on hardware, refused on a machine without; what must never happen is a hang.
        match self_test() {
            Ok(()) => println!("/dev/kvm runs guests here"),
            Err(error) => {
                assert_eq!(error.kind(), rehost_block::Kind::Unsupported);
                assert!(!error.to_string().contains('\n'));
                println!("{error}");
            }
        }
    }
}
