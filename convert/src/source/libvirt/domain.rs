//! What a domain says of the machine as a whole.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;

use rehost_block::{Error, Opener, Result};
use roxmltree::Node;
use uuid::Uuid;

use super::{Reader, attribute, child, children, devices, text};
use crate::source::{Described, Firmware, LeftOut, Vm};

/// Most virtual processors. QEMU's own limit for a q35 (`max_cpus` of version 9.1).
const MOST_VCPUS: u32 = 4096;

/// Most memory, in MiB. Ours: 64 TiB.
const MOST_MEMORY: u64 = 64 << 20;

/// Builds the machine.
pub(super) fn build(reader: Reader<'_>, path: &Path, opener: &dyn Opener) -> Result<Vm> {
    let root = reader.root();
    if root.tag_name().name() != "domain" {
        return Err(reader
            .corrupt(root, "is no domain")
            .hint("`virsh dumpxml NAME > NAME.xml` writes one"));
    }
    let Some(os) = child(root, "os") else {
        return Err(reader.corrupt(root, "has no <os>"));
    };
    check_machine(reader, os)?;
    let vcpus = vcpus(reader, root)?;
    let stem = path.file_stem().unwrap_or_default();
    let name = text(root, "name").map(str::to_owned);
    let devices = child(root, "devices");
    let machine = attribute(os, "type", "machine").unwrap_or_default();
    let mut left_out = devices::left_out(reader, devices);
    for kernel in children(os, "kernel").chain(children(root, "bootloader")) {
        left_out.push(LeftOut {
            what: "a kernel that the host keeps; the guest's own boot loader is used".to_owned(),
            line: reader.line(kernel),
        });
    }
    left_out.sort_by_key(|left_out| left_out.line);
    Ok(Vm {
        path: path.to_owned(),
        described: Described::Libvirt,
        name: name.unwrap_or_else(|| stem.to_string_lossy().into_owned()),
        guest_os: None,
        hardware_version: None,
        firmware: firmware(os),
        vcpus,
        cores_per_socket: cores_per_socket(root, vcpus),
        memory_mib: memory(reader, root)?,
        uuid: uuid(reader, root)?,
        disks: devices::disks(reader, devices, path, opener)?,
        cdroms: devices::cdroms(devices),
        nics: devices::nics(reader, devices, machine)?,
        nvram: text(os, "nvram").map(str::to_owned),
        left_out,
    })
}

/// Refuses what is no full machine of x86.
fn check_machine(reader: Reader<'_>, os: Node<'_, '_>) -> Result<()> {
    let Some(kind) = child(os, "type") else {
        return Err(reader.corrupt(os, "has no <type>"));
    };
    let virtualization = kind.text().unwrap_or_default().trim();
    if virtualization != "hvm" {
        return Err(reader
            .unsupported(kind, "is no full virtual machine")
            .mismatch("hvm", virtualization));
    }
    match kind.attribute("arch") {
        None | Some("x86_64" | "i686") => Ok(()),
        Some(other) => Err(reader
            .unsupported(kind, "is for a processor that is not known")
            .mismatch("x86_64", other)),
    }
}

fn firmware(os: Node<'_, '_>) -> Firmware {
    let loader = child(os, "loader");
    let flash = loader.is_some_and(|loader| {
        // UEFI that is no flash memory is told by its file only.
        let file = loader.text().unwrap_or_default().to_ascii_lowercase();
        loader.attribute("type") == Some("pflash") || file.contains("ovmf") || file.contains("edk2")
    });
    if os.attribute("firmware") != Some("efi") && !flash {
        return Firmware::Bios;
    }
    let asked = child(os, "firmware").is_some_and(|firmware| {
        firmware.children().any(|feature| {
            feature.attribute("name") == Some("secure-boot")
                && feature.attribute("enabled") == Some("yes")
        })
    });
    if asked || loader.is_some_and(|loader| loader.attribute("secure") == Some("yes")) {
        Firmware::EfiSecureBoot
    } else {
        Firmware::Efi
    }
}

fn vcpus(reader: Reader<'_>, root: Node<'_, '_>) -> Result<NonZeroU32> {
    let Some(vcpu) = child(root, "vcpu") else {
        return Ok(NonZeroU32::MIN);
    };
    let written = vcpu.text().unwrap_or_default().trim();
    let number = written.parse().ok().and_then(NonZeroU32::new);
    number
        .filter(|number| number.get() <= MOST_VCPUS)
        .ok_or_else(|| {
            reader
                .corrupt(vcpu, "is no count of processors")
                .mismatch(format!("1 to {MOST_VCPUS}"), written)
        })
}

/// Cores, threads and dies of a socket, where they add up to what `<vcpu>` says.
fn cores_per_socket(root: Node<'_, '_>, vcpus: NonZeroU32) -> NonZeroU32 {
    let cores = || {
        let topology = child(child(root, "cpu")?, "topology")?;
        let number = |name: &str| match topology.attribute(name) {
            Some(written) => written.parse::<u32>().ok(),
            None => Some(1),
        };
        let cores = ["dies", "clusters", "cores", "threads"]
            .iter()
            .try_fold(1_u32, |product, name| product.checked_mul(number(name)?))?;
        let all = cores.checked_mul(number("sockets")?)?;
        NonZeroU32::new(cores).filter(|_| all == vcpus.get())
    };
    cores().unwrap_or(NonZeroU32::MIN)
}

/// `<memory unit='KiB'>`, rounded up to MiB.
fn memory(reader: Reader<'_>, root: Node<'_, '_>) -> Result<NonZeroU64> {
    let Some(memory) = child(root, "memory") else {
        return Err(reader.corrupt(root, "has no <memory>"));
    };
    let written = memory.text().unwrap_or_default().trim();
    let unit = memory.attribute("unit").unwrap_or("KiB");
    let wrong = || {
        reader.corrupt(memory, "is no amount of memory").mismatch(
            format!("1 to {MOST_MEMORY} MiB"),
            format!("{written} {unit}"),
        )
    };
    let bytes = unit_bytes(unit)
        .zip(written.parse::<u64>().ok())
        .and_then(|(unit, number)| number.checked_mul(unit))
        .ok_or_else(wrong)?;
    NonZeroU64::new(bytes.div_ceil(1 << 20))
        .filter(|number| number.get() <= MOST_MEMORY)
        .ok_or_else(wrong)
}

/// "Scaled integers" of libvirt: `K` and `KiB` are 1024, `KB` is 1000.
fn unit_bytes(unit: &str) -> Option<u64> {
    Some(match unit {
        "b" | "bytes" => 1,
        "KB" => 1_000,
        "k" | "K" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    })
}

fn uuid(reader: Reader<'_>, root: Node<'_, '_>) -> Result<Option<Uuid>> {
    let Some(uuid) = child(root, "uuid") else {
        return Ok(None);
    };
    let written = uuid.text().unwrap_or_default().trim();
    let parsed = Uuid::try_parse(written);
    let wrong = |_| -> Error {
        reader
            .corrupt(uuid, "is no UUID")
            .mismatch("16 bytes in hex", written)
    };
    parsed.map(Some).map_err(wrong)
}
