//! The devices of a domain: disks in boot order, CD-ROM drives, network interfaces.

use std::path::Path;

use rehost_block::{Error, Opener, Result};
use rehost_image::Format;
use roxmltree::Node;

use super::{Reader, attribute, child, children, offset};
use crate::source::{Cdrom, Controller, DiskMode, LeftOut, Nic, NicModel, VmDisk};

/// The hard disks, the one that boots first: those with a `<boot order>` by it, then the others as
/// they are listed, which is the order in which libvirt hands them to the firmware.
pub(super) fn disks(
    reader: Reader<'_>,
    devices: Option<Node<'_, '_>>,
    path: &Path,
    opener: &dyn Opener,
) -> Result<Vec<VmDisk>> {
    let mut disks = Vec::new();
    for node in listed(devices, "disk") {
        if !matches!(node.attribute("device"), None | Some("disk" | "lun")) {
            continue;
        }
        // A copy of it would be another disk than the one that the other machines have.
        if child(node, "shareable").is_some() {
            continue;
        }
        let order = attribute(node, "boot", "order").and_then(|order| order.parse::<u32>().ok());
        disks.push((
            order.unwrap_or(u32::MAX),
            disk(reader, devices, node, path, opener)?,
        ));
    }
    disks.sort_by_key(|(order, _)| *order);
    Ok(disks.into_iter().map(|(_, disk)| disk).collect())
}

fn listed<'a, 'i>(devices: Option<Node<'a, 'i>>, name: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    devices
        .into_iter()
        .flat_map(move |devices| children(devices, name))
}

fn disk(
    reader: Reader<'_>,
    devices: Option<Node<'_, '_>>,
    node: Node<'_, '_>,
    path: &Path,
    opener: &dyn Opener,
) -> Result<VmDisk> {
    let at = attribute(node, "target", "dev")
        .ok_or_else(|| reader.corrupt(node, "has no <target dev>"))?;
    let (named, source) = named(reader, node)?;
    let opened = opener.open(Path::new(named), path).map_err(|error| {
        Error::new(
            error.kind(),
            format!("line {}: {at} is \"{named}\"", reader.line(source)),
        )
        .at(offset(source))
        .because(error)
    })?;
    Ok(VmDisk {
        at: at.to_owned(),
        controller: controller(reader, devices, node)?,
        named: named.to_owned(),
        path: opened.path,
        format: format(reader, node)?,
        mode: if child(node, "transient").is_some() {
            DiskMode::IndependentNonpersistent
        } else {
            DiskMode::Persistent
        },
        line: reader.line(source),
    })
}

/// The file or block device of a disk, as written, and where.
fn named<'a, 'i>(reader: Reader<'_>, node: Node<'a, 'i>) -> Result<(&'a str, Node<'a, 'i>)> {
    let kind = node.attribute("type").unwrap_or("file");
    let (attribute, hint) = match kind {
        "file" => ("file", ""),
        "block" => ("dev", ""),
        "network" => (
            "",
            "copy the disk to a file first (`qemu-img convert` reads such disks)",
        ),
        "volume" => (
            "",
            "name its file or device instead: `virsh vol-path --pool POOL VOLUME` tells it",
        ),
        "nvme" | "vhostuser" | "vhostvdpa" => ("", "copy the device to a file first"),
        _ => ("", "copy the disk to a file first"),
    };
    if attribute.is_empty() {
        return Err(reader
            .unsupported(node, &format!("is of type '{kind}', which is not opened"))
            .hint(hint));
    }
    let Some(source) = child(node, "source") else {
        return Err(reader.corrupt(node, "has no <source>"));
    };
    if let Some(slices) = child(source, "slices") {
        return Err(reader
            .unsupported(slices, "makes a disk of a part of a file")
            .hint("`rehost dd` takes the part out"));
    }
    match source
        .attribute(attribute)
        .filter(|named| !named.is_empty())
    {
        Some(named) => Ok((named, source)),
        None => Err(reader.corrupt(source, &format!("has no {attribute}"))),
    }
}

/// `<driver type>`: what is not said is raw, as it is for libvirt.
fn format(reader: Reader<'_>, node: Node<'_, '_>) -> Result<Option<Format>> {
    let Some(written) = attribute(node, "driver", "type") else {
        return Ok(Some(Format::Raw));
    };
    match written {
        // What libvirt finds out by looking; it never writes these words itself.
        "auto" | "aio" => Ok(None),
        _ => written.parse().map(Some).map_err(|error| {
            reader
                .unsupported(node, &format!("is a {written}, which is not read"))
                .because(error)
        }),
    }
}

fn controller(
    reader: Reader<'_>,
    devices: Option<Node<'_, '_>>,
    node: Node<'_, '_>,
) -> Result<Controller> {
    let target = attribute(node, "target", "dev").unwrap_or_default();
    let bus = attribute(node, "target", "bus");
    Ok(match bus {
        Some("virtio") => Controller::VirtioBlk,
        Some("sata") => Controller::Ahci,
        Some("ide") => Controller::Ide,
        Some("nvme") => Controller::Nvme,
        Some("usb") => Controller::Usb,
        Some("scsi") => scsi(devices, node),
        // libvirt tells the bus by the name then.
        None if target.starts_with("vd") => Controller::VirtioBlk,
        None if target.starts_with("hd") => Controller::Ide,
        None if target.starts_with("sd") => scsi(devices, node),
        other => {
            return Err(reader
                .unsupported(node, "is on a bus that is not known")
                .mismatch(
                    "virtio, scsi, sata, ide, nvme or usb",
                    other.unwrap_or(target),
                ));
        }
    })
}

/// The model of the SCSI controller that a disk is on.
fn scsi(devices: Option<Node<'_, '_>>, node: Node<'_, '_>) -> Controller {
    let index = attribute(node, "address", "controller").unwrap_or("0");
    let model = listed(devices, "controller")
        .filter(|controller| controller.attribute("type") == Some("scsi"))
        .find(|controller| controller.attribute("index").unwrap_or("0") == index)
        .and_then(|controller| controller.attribute("model"));
    match model {
        Some("lsilogic") => Controller::Lsilogic,
        Some("lsisas1068") => Controller::Lsisas1068,
        Some("lsisas1078") => Controller::Lsisas1078,
        Some("vmpvscsi") => Controller::Pvscsi,
        Some("buslogic") => Controller::Buslogic,
        Some(model) if model.starts_with("virtio") => Controller::VirtioScsi,
        _ => Controller::Unspecified,
    }
}

/// The CD-ROM drives. Their images are not opened: a drive without its disc is still a drive.
pub(super) fn cdroms(devices: Option<Node<'_, '_>>) -> Vec<Cdrom> {
    listed(devices, "disk")
        .filter(|node| node.attribute("device") == Some("cdrom"))
        .map(|node| Cdrom {
            at: attribute(node, "target", "dev")
                .unwrap_or_default()
                .to_owned(),
            image: attribute(node, "source", "file").map(str::to_owned),
        })
        .collect()
}

/// The network interfaces, as they are listed.
pub(super) fn nics(
    reader: Reader<'_>,
    devices: Option<Node<'_, '_>>,
    machine: &str,
) -> Result<Vec<Nic>> {
    (0..)
        .zip(listed(devices, "interface").filter(|node| !is_host_device(*node)))
        .map(|(number, node)| nic(reader, number, node, machine))
        .collect()
}

/// A card of the host's that the guest has for itself.
fn is_host_device(node: Node<'_, '_>) -> bool {
    matches!(node.attribute("type"), Some("hostdev" | "vdpa"))
}

fn nic(reader: Reader<'_>, number: u32, node: Node<'_, '_>, machine: &str) -> Result<Nic> {
    let mac = match child(node, "mac").and_then(|mac| Some((mac, mac.attribute("address")?))) {
        None => None,
        Some((place, written)) => {
            let mac: rehost_runtime::Mac = written.parse().map_err(|_| {
                reader
                    .corrupt(place, "is no MAC address")
                    .mismatch("six bytes in hex with colons", written)
            })?;
            Some(mac.to_string())
        }
    };
    let model = match attribute(node, "model", "type") {
        None => NicModel::Unspecified,
        Some(name) if name.starts_with("virtio") => NicModel::Virtio,
        Some("e1000e") => NicModel::E1000e,
        Some(name) if name.starts_with("e1000") => NicModel::E1000,
        Some("vmxnet3") => NicModel::Vmxnet3,
        Some("vmxnet" | "vmxnet2") => NicModel::Vmxnet,
        Some("vlance" | "pcnet") => NicModel::Vlance,
        Some(other) => NicModel::Other(other.to_owned()),
    };
    let network = ["network", "bridge", "dev"]
        .iter()
        .find_map(|key| attribute(node, "source", key));
    Ok(Nic {
        number,
        mac,
        model,
        network: network.map(str::to_owned),
        connection: node.attribute("type").map(str::to_owned),
        pci_slot: None,
        guest_name: guest_name(node, machine),
    })
}

/// What udev calls a card at the `<address>` of `node`. On a q35 every card is alone behind a port,
/// whose bus libvirt numbers as the firmware does as long as none is nested; on an i440fx cards are in
/// hot-plug slots.
fn guest_name(node: Node<'_, '_>, machine: &str) -> Option<String> {
    let number = |name| {
        let written = attribute(node, "address", name)?;
        match written.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => written.parse().ok(),
        }
    };
    if attribute(node, "address", "type") != Some("pci") || number("domain").unwrap_or(0) != 0 {
        return None;
    }
    let (bus, slot) = (number("bus")?, number("slot")?);
    if number("function") != Some(0) {
        return None;
    }
    if machine.contains("q35") {
        Some(format!("enp{bus}s{slot}"))
    } else {
        (bus == 0).then(|| format!("ens{slot}"))
    }
}

/// Devices that are not carried over.
pub(super) fn left_out(reader: Reader<'_>, devices: Option<Node<'_, '_>>) -> Vec<LeftOut> {
    let mut found = Vec::new();
    let nodes = devices.into_iter().flat_map(|devices| devices.children());
    for node in nodes.filter(Node::is_element) {
        let what = match node.tag_name().name() {
            "disk" if node.attribute("device") == Some("floppy") => "a floppy drive",
            "disk" if child(node, "shareable").is_some() => "a disk shared with other machines",
            "interface" if is_host_device(node) => "a network card of the host's",
            "hostdev" => "a device of the host's",
            "filesystem" => "a folder shared with the host",
            "tpm" => "a TPM",
            "sound" => "a sound device",
            "parallel" => "a parallel port",
            "smartcard" => "a smart card reader",
            "watchdog" => "a watchdog",
            "shmem" => "memory shared with other machines",
            "nvdimm" | "memory" => "a memory module of its own",
            _ => continue,
        };
        found.push(LeftOut {
            what: what.to_owned(),
            line: reader.line(node),
        });
    }
    found
}
