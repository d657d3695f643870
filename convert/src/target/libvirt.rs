//! The libvirt domain of a migrated guest.
//!
//! Source: libvirt's "Domain XML format" (formatdomain), elements as its RelaxNG schema of version
//! 9.0 has them. Left out on purpose: storage pools, and anything that names a host's own devices;
//! the networks are libvirt's `default`, because the source's network names mean nothing there.

use std::io;

use quick_xml::Writer;
use quick_xml::events::BytesText;
use rehost_block::{Error, Result};

use super::{NewDisk, NewMachine};
use crate::source::Firmware;

/// How the disks of a domain are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    /// Each a virtio-blk device.
    VirtioBlk,
    /// On one virtio-scsi controller.
    VirtioScsi,
    /// On the AHCI controller of the machine.
    Sata,
}

impl DiskBus {
    /// The bus called `name` on the command line.
    ///
    /// # Errors
    /// Unsupported for buses on which libvirt has no image files, or a q35 machine no disks.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "virtio-blk" => Ok(Self::VirtioBlk),
            "virtio-scsi" => Ok(Self::VirtioScsi),
            "sata" => Ok(Self::Sata),
            _ => Err(Error::unsupported(format!(
                "a libvirt domain of type q35 has no image files on {name}"
            ))
            .hint("choose virtio-blk, virtio-scsi or sata")),
        }
    }

    /// What libvirt calls it, and how it begins the names of its disks.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::VirtioBlk => ("virtio", "vd"),
            Self::VirtioScsi => ("scsi", "sd"),
            Self::Sata => ("sata", "sd"),
        }
    }
}

/// The domain as libvirt reads it.
///
/// # Errors
/// As [`DiskBus::named`]; Internal when a value cannot be written as XML.
pub fn domain(machine: &NewMachine) -> Result<String> {
    let bus = DiskBus::named(machine.bus)?;
    Domain { machine, bus }.to_xml()
}

/// A machine and the bus that libvirt has for it.
struct Domain<'a> {
    machine: &'a NewMachine,
    bus: DiskBus,
}

type Xml = Writer<Vec<u8>>;
type Element = io::Result<()>;

impl Domain<'_> {
    fn to_xml(&self) -> Result<String> {
        let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write(&mut xml)
            .map_err(|error| Error::internal("domain XML").because(error))?;
        let mut bytes = xml.into_inner();
        bytes.push(b'\n');
        String::from_utf8(bytes).map_err(|error| Error::internal("domain XML").because(error))
    }

    fn write(&self, xml: &mut Xml) -> Element {
        xml.create_element("domain")
            .with_attribute(("type", "kvm"))
            .write_inner_content(|xml| {
                text(xml, "name", &self.machine.name)?;
                if let Some(uuid) = self.machine.uuid {
                    text(xml, "uuid", &uuid.to_string())?;
                }
                xml.create_element("memory")
                    .with_attribute(("unit", "MiB"))
                    .write_text_content(BytesText::new(&self.machine.memory_mib.to_string()))?;
                text(xml, "vcpu", &self.machine.vcpus.to_string())?;
                self.write_os(xml)?;
                xml.create_element("features").write_inner_content(|xml| {
                    empty(xml, "acpi", &[])?;
                    empty(xml, "apic", &[])?;
                    if self.machine.firmware == Firmware::EfiSecureBoot {
                        empty(xml, "smm", &[("state", "on")])?;
                    }
                    Ok(())
                })?;
                self.write_cpu(xml)?;
                xml.create_element("clock")
                    .with_attribute(("offset", "utc"))
                    .write_inner_content(|xml| {
                        empty(xml, "timer", &[("name", "rtc"), ("tickpolicy", "catchup")])?;
                        empty(xml, "timer", &[("name", "pit"), ("tickpolicy", "delay")])?;
                        empty(xml, "timer", &[("name", "hpet"), ("present", "no")])
                    })?;
                text(xml, "on_poweroff", "destroy")?;
                text(xml, "on_reboot", "restart")?;
                text(xml, "on_crash", "destroy")?;
                xml.create_element("devices")
                    .write_inner_content(|xml| self.write_devices(xml))?;
                Ok(())
            })?;
        Ok(())
    }

    fn write_os(&self, xml: &mut Xml) -> Element {
        let os = xml.create_element("os");
        let os = match self.machine.firmware {
            Firmware::Bios => os,
            Firmware::Efi | Firmware::EfiSecureBoot => os.with_attribute(("firmware", "efi")),
        };
        os.write_inner_content(|xml| {
            xml.create_element("type")
                .with_attributes([("arch", "x86_64"), ("machine", "q35")])
                .write_text_content(BytesText::new("hvm"))?;
            if self.machine.firmware != Firmware::Bios {
                let secure = self.machine.firmware == Firmware::EfiSecureBoot;
                let state = if secure { "yes" } else { "no" };
                xml.create_element("firmware").write_inner_content(|xml| {
                    empty(
                        xml,
                        "feature",
                        &[("enabled", state), ("name", "secure-boot")],
                    )
                })?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn write_cpu(&self, xml: &mut Xml) -> Element {
        let cores = self
            .machine
            .cores_per_socket
            .clamp(1, self.machine.vcpus.max(1));
        let sockets = (self.machine.vcpus / cores).max(1);
        xml.create_element("cpu")
            .with_attribute(("mode", "host-model"))
            .write_inner_content(|xml| {
                // Only a topology that multiplies out is one libvirt accepts.
                if sockets.saturating_mul(cores) == self.machine.vcpus {
                    empty(
                        xml,
                        "topology",
                        &[
                            ("sockets", &sockets.to_string()),
                            ("cores", &cores.to_string()),
                            ("threads", "1"),
                        ],
                    )?;
                }
                Ok(())
            })?;
        Ok(())
    }

    fn write_devices(&self, xml: &mut Xml) -> Element {
        for (nth, disk) in self.machine.disks.iter().enumerate() {
            self.write_disk(xml, nth, disk)?;
        }
        if self.bus == DiskBus::VirtioScsi {
            empty(
                xml,
                "controller",
                &[("type", "scsi"), ("index", "0"), ("model", "virtio-scsi")],
            )?;
        }
        for nic in &self.machine.nics {
            xml.create_element("interface")
                .with_attribute(("type", "network"))
                .write_inner_content(|xml| {
                    if let Some(mac) = &nic.mac {
                        empty(xml, "mac", &[("address", mac)])?;
                    }
                    empty(xml, "source", &[("network", "default")])?;
                    empty(xml, "model", &[("type", "virtio")])
                })?;
        }
        xml.create_element("serial")
            .with_attribute(("type", "pty"))
            .write_inner_content(|xml| {
                xml.create_element("target")
                    .with_attributes([("type", "isa-serial"), ("port", "0")])
                    .write_inner_content(|xml| empty(xml, "model", &[("name", "isa-serial")]))?;
                Ok(())
            })?;
        xml.create_element("console")
            .with_attribute(("type", "pty"))
            .write_inner_content(|xml| {
                empty(xml, "target", &[("type", "serial"), ("port", "0")])
            })?;
        xml.create_element("channel")
            .with_attribute(("type", "unix"))
            .write_inner_content(|xml| {
                empty(
                    xml,
                    "target",
                    &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")],
                )
            })?;
        empty(xml, "input", &[("type", "tablet"), ("bus", "usb")])?;
        empty(xml, "graphics", &[("type", "vnc"), ("autoport", "yes")])?;
        xml.create_element("video")
            .write_inner_content(|xml| empty(xml, "model", &[("type", "vga")]))?;
        empty(xml, "memballoon", &[("model", "virtio")])?;
        xml.create_element("rng")
            .with_attribute(("model", "virtio"))
            .write_inner_content(|xml| {
                xml.create_element("backend")
                    .with_attribute(("model", "random"))
                    .write_text_content(BytesText::new("/dev/urandom"))?;
                Ok(())
            })?;
        Ok(())
    }

    fn write_disk(&self, xml: &mut Xml, nth: usize, disk: &NewDisk) -> Element {
        let format = disk.format.as_str();
        let path = disk.path.to_string_lossy();
        let (bus, prefix) = self.bus.names();
        xml.create_element("disk")
            .with_attributes([("type", "file"), ("device", "disk")])
            .write_inner_content(|xml| {
                empty(
                    xml,
                    "driver",
                    &[("name", "qemu"), ("type", format), ("discard", "unmap")],
                )?;
                empty(xml, "source", &[("file", &path)])?;
                empty(
                    xml,
                    "target",
                    &[("dev", &device_name(prefix, nth)), ("bus", bus)],
                )?;
                if nth == 0 {
                    empty(xml, "boot", &[("order", "1")])?;
                }
                Ok(())
            })?;
        Ok(())
    }
}

/// The `nth` device name after `prefix`: `a` to `z`, then `aa` on, as Linux counts.
fn device_name(prefix: &str, nth: usize) -> String {
    let mut letters = Vec::new();
    let mut left = nth;
    // Ends because `left` shrinks 26-fold a round.
    loop {
        letters.push(char::from(b'a' + u8::try_from(left % 26).unwrap_or(0)));
        if left < 26 {
            break;
        }
        left = left / 26 - 1;
    }
    prefix.chars().chain(letters.into_iter().rev()).collect()
}

fn text(xml: &mut Xml, name: &str, content: &str) -> Element {
    xml.create_element(name)
        .write_text_content(BytesText::new(content))?;
    Ok(())
}

fn empty(xml: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> Element {
    xml.create_element(name)
        .with_attributes(attributes.iter().copied())
        .write_empty()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::machine::sample;
    use super::*;

    #[test]
    fn device_names_go_on_after_z() {
        let names: Vec<_> = [0, 25, 26, 51, 52, 701, 702]
            .map(|n| device_name("vd", n))
            .into();
        assert_eq!(
            names,
            ["vda", "vdz", "vdaa", "vdaz", "vdba", "vdzz", "vdaaa"]
        );
    }

    #[test]
    fn hostile_names_are_escaped() {
        let mut machine = sample("virtio-blk", 1);
        machine.name = "a<b>&\"".into();
        machine.vcpus = 3;
        let xml = domain(&machine).unwrap();
        assert!(xml.contains("<name>a&lt;b&gt;&amp;"), "{xml}");
        assert!(
            !xml.contains("topology"),
            "3 processors are not 2 a socket: {xml}"
        );
    }
}
