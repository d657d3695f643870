//! Direct boot: kernel, initramfs and command line in memory, as a boot loader leaves them.
//!
//! Follows Documentation/arch/x86/boot.rst ("The Linux/x86 Boot Protocol"), 64-bit entry. The
//! kernel comes from the guest's disk, so every size in its header is checked. Leaves out on
//! purpose, refused by name: kernels without a 64-bit entry point (32-bit kernels, and any before
//! 3.8), and files that are not a bzImage.

use std::io::Cursor;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use rehost_block::{Error, Result};
use vm_memory::{Address, Bytes, GuestAddress};

use super::cpu::Entry;
use super::layout;
use super::vm::Memory;
use crate::DirectBoot;

/// Boot protocol 2.12, the first with `xloadflags`.
const PROTOCOL: u16 = 0x20c;
/// `xloadflags`: the kernel has a 64-bit entry point at 0x200.
const KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry point in the loaded kernel.
const ENTRY_64: u64 = 0x200;
/// `type_of_loader`: none of the registered ones.
const LOADER_UNDEFINED: u8 = 0xff;
/// Bytes of a bzImage that hold its setup header.
const SETUP_BYTES: usize = 0x400;
const PAGE: u64 = 0x1000;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Loads `boot` into `memory`; `rsdp` is where the ACPI tables start.
///
/// # Errors
/// Corrupt when the kernel is not a bzImage, Unsupported when it has no 64-bit entry point, Usage
/// when memory is too small or the command line too long.
pub(super) fn load(
    memory: &Memory,
    ram: &[(GuestAddress, u64)],
    boot: &DirectBoot,
    rsdp: GuestAddress,
) -> Result<Entry> {
    if boot.kernel.len() < SETUP_BYTES {
        return Err(not_a_kernel("file is too short"));
    }
    let loaded = BzImage::load(
        memory,
        Some(layout::HIGH_RAM),
        &mut Cursor::new(&boot.kernel),
        Some(layout::HIGH_RAM),
    )
    .map_err(|error| not_a_kernel(&error.to_string()))?;
    let mut header = loaded
        .setup_header
        .ok_or_else(|| Error::internal("a loaded kernel without its header"))?;
    if header.version < PROTOCOL || header.xloadflags & KERNEL_64 == 0 {
        return Err(Error::unsupported("kernel has no 64-bit entry point")
            .hint("boot it with --engine qemu"));
    }
    let low_end = ram
        .first()
        .map_or(0, |(start, len)| start.raw_value().saturating_add(*len));
    let needed = kernel_end(&header, loaded.kernel_end);
    if needed > low_end {
        return Err(too_small("kernel", needed, low_end));
    }
    if let Some(initrd) = boot.initrd.as_deref().filter(|initrd| !initrd.is_empty()) {
        let at = place_initrd(&header, initrd.len(), needed, low_end)?;
        memory
            .write_slice(initrd, GuestAddress(at))
            .map_err(|error| {
                Error::internal("the initramfs does not fit its place").because(error)
            })?;
        header.ramdisk_image = u32::try_from(at).unwrap_or(u32::MAX);
        header.ramdisk_size = u32::try_from(initrd.len()).unwrap_or(u32::MAX);
    }
    write_command_line(memory, &mut header, &boot.command_line)?;
    header.type_of_loader = LOADER_UNDEFINED;

    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp.raw_value(),
        ..Default::default()
    };
    let map = memory_map(ram);
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    for (slot, (addr, size, kind)) in params.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry {
            addr,
            size,
            r#type: kind,
        };
    }
    memory
        .write_obj(params, layout::ZERO_PAGE)
        .map_err(|error| Error::internal("the zero page is not in memory").because(error))?;
    Ok(Entry {
        rip: loaded.kernel_load.raw_value().saturating_add(ENTRY_64),
        rsp: layout::BOOT_STACK.raw_value(),
        rsi: layout::ZERO_PAGE.raw_value(),
    })
}

/// The first byte that the kernel does not need while it unpacks itself: a relocatable kernel
/// moves to its preferred address and works in `init_size` bytes there.
fn kernel_end(header: &setup_header, loaded_end: u64) -> u64 {
    let preferred = header.pref_address;
    let works_until = preferred
        .max(layout::HIGH_RAM.raw_value())
        .saturating_add(u64::from(header.init_size));
    works_until.max(loaded_end)
}

/// The highest page-aligned place below the kernel's limit and the end of low RAM.
fn place_initrd(header: &setup_header, len: usize, floor: u64, low_end: u64) -> Result<u64> {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    let limit = u64::from(header.initrd_addr_max)
        .saturating_add(1)
        .min(low_end);
    match limit.checked_sub(len).map(|at| at & !(PAGE - 1)) {
        Some(at) if at >= floor => Ok(at),
        _ => Err(too_small("initramfs", floor.saturating_add(len), limit)),
    }
}

fn write_command_line(memory: &Memory, header: &mut setup_header, line: &str) -> Result<()> {
    let limit = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    if line.len() > limit.min(0xffff) {
        return Err(Error::usage("the kernel command line is too long")
            .mismatch(format!("at most {limit} bytes"), line.len()));
    }
    if line.contains('\0') {
        return Err(Error::usage("the kernel command line contains a NUL byte"));
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, layout::COMMAND_LINE)
        .map_err(|error| Error::internal("the command line is not in memory").because(error))?;
    header.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE.raw_value()).unwrap_or(u32::MAX);
    Ok(())
}

/// The memory map in the order of addresses.
fn memory_map(ram: &[(GuestAddress, u64)]) -> Vec<(u64, u64, u32)> {
    let high = layout::HIGH_RAM.raw_value();
    let mut map = vec![
        (0, layout::LOW_RAM_END, E820_RAM),
        (
            layout::LOW_RAM_END,
            high - layout::LOW_RAM_END,
            E820_RESERVED,
        ),
    ];
    for (start, len) in ram {
        let end = start.raw_value().saturating_add(*len);
        let start = start.raw_value().max(high);
        if end > start {
            map.push((start, end - start, E820_RAM));
        }
    }
    map
}

fn not_a_kernel(why: &str) -> Error {
    Error::corrupt("the kernel cannot be loaded")
        .in_structure("bzImage")
        .mismatch("a Linux kernel as boot loaders read it", why.to_lowercase())
}

fn too_small(what: &str, needed: u64, has: u64) -> Error {
    Error::usage(format!("the machine's memory is too small for the {what}"))
        .mismatch(format!("at least {needed} bytes"), has)
        .hint("give the machine more memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage that says of itself whatever a test wants.
    fn image(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
        let mut header = setup_header {
            setup_sects: 1,
            boot_flag: 0xaa55,
            header: 0x5372_6448,
            version: 0x20f,
            loadflags: 1,
            code32_start: 0x10_0000,
            initrd_addr_max: 0x7fff_ffff,
            relocatable_kernel: 1,
            xloadflags: KERNEL_64,
            cmdline_size: 2047,
            pref_address: 0x20_0000,
            init_size: 0x20_0000,
            ..Default::default()
        };
        change(&mut header);
        let mut bytes = vec![0x90; 0x1000];
        let raw = vm_memory::ByteValued::as_slice(&header);
        bytes[0x1f1..0x1f1 + raw.len()].copy_from_slice(raw);
        bytes
    }

    fn boot(kernel: Vec<u8>, initrd: Option<Vec<u8>>, line: &str) -> Result<(Memory, Entry)> {
        let ram = layout::ram(16 << 20);
        let memory = Memory::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let boot = DirectBoot {
            kernel,
            initrd,
            command_line: line.to_owned(),
        };
        let entry = load(&memory, &ram, &boot, layout::ACPI)?;
        Ok((memory, entry))
    }

    #[test]
    fn kernel_initramfs_and_command_line_are_where_the_zero_page_says() {
        let (memory, entry) = boot(image(|_| ()), Some(vec![7; 5000]), "console=ttyS0").unwrap();
        assert_eq!(entry.rip, 0x10_0200);
        let params: boot_params = memory.read_obj(GuestAddress(entry.rsi)).unwrap();
        let at = u64::from(params.hdr.ramdisk_image);
        assert_eq!(at % PAGE, 0);
        assert_eq!(at, (16 << 20) - 8192);
        let mut initrd = vec![0; 5000];
        memory.read_slice(&mut initrd, GuestAddress(at)).unwrap();
        assert_eq!(initrd, vec![7; 5000]);
        let mut line = [0; 14];
        memory
            .read_slice(&mut line, GuestAddress(params.hdr.cmd_line_ptr.into()))
            .unwrap();
        assert_eq!(&line, b"console=ttyS0\0");
        assert_eq!(params.e820_entries, 3);
        let rsdp = params.acpi_rsdp_addr;
        assert_eq!(rsdp, layout::ACPI.raw_value());
    }

    #[test]
    fn file_that_is_no_kernel_is_refused() {
        for kernel in [vec![], vec![0; 100], vec![0; 1 << 16]] {
            assert_eq!(
                boot(kernel, None, "").unwrap_err().kind(),
                rehost_block::Kind::Corrupt
            );
        }
    }

    #[test]
    fn setup_larger_than_the_file_is_refused() {
        let error = boot(image(|header| header.setup_sects = 64), None, "").unwrap_err();
        assert_eq!(error.kind(), rehost_block::Kind::Corrupt);
    }

    #[test]
    fn kernel_without_a_64_bit_entry_is_refused_by_name() {
        let error = boot(image(|header| header.xloadflags = 0), None, "").unwrap_err();
        assert_eq!(error.kind(), rehost_block::Kind::Unsupported);
    }

    #[test]
    fn header_that_asks_for_all_memory_is_refused() {
        for change in [
            |header: &mut setup_header| header.init_size = u32::MAX,
            |header: &mut setup_header| header.pref_address = u64::MAX,
        ] {
            let error = boot(image(change), None, "").unwrap_err();
            assert_eq!(error.kind(), rehost_block::Kind::Usage, "{error}");
        }
    }

    #[test]
    fn initramfs_larger_than_memory_is_refused() {
        let error = boot(image(|_| ()), Some(vec![0; 14 << 20]), "").unwrap_err();
        assert_eq!(error.kind(), rehost_block::Kind::Usage);
        let low = image(|header| header.initrd_addr_max = 10);
        assert!(boot(low, Some(vec![0; 20]), "").is_err());
    }

    #[test]
    fn command_line_beyond_the_kernels_limit_is_refused() {
        assert!(boot(image(|_| ()), None, &"x".repeat(2048)).is_err());
        assert!(boot(image(|_| ()), None, "a\0b").is_err());
    }

    #[test]
    fn memory_map_covers_ram_on_both_sides_of_the_gap() {
        let map = memory_map(&layout::ram(4 << 30));
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, 1),
                (0x9_fc00, 0x6_0400, 2),
                (0x10_0000, 0xbff0_0000, 1),
                (1 << 32, 1 << 30, 1)
            ]
        );
    }
}
