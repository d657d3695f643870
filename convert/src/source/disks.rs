//! A machine of which there are only its disks: a physical one, or one whose description is lost.
//!
//! What the disks do not say is asked for, or taken from what inspection found on them, or set to
//! something sane; each such choice is told with its evidence.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use rehost_block::{Error, Result};
use rehost_inspect::Inspection;
use rehost_inspect::model::{self, Interface, InterfaceKind};
use rehost_runtime::Mac;

use super::{Controller, Described, DiskMode, Firmware, Nic, NicModel, Vm, VmDisk};
use crate::report::Decision;

/// Processors and memory of a machine that nothing describes: what a small server has.
const VCPUS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
const MEMORY_MIB: NonZeroU64 = NonZeroU64::MIN.saturating_add(2047);

/// Whose network cards the new machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cards {
    /// They are made, with the addresses of the old ones.
    #[default]
    Made,
    /// A physical machine's own, whose addresses the user knows.
    Own,
}

/// What the user says of the machine.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Virtual processors.
    pub vcpus: Option<NonZeroU32>,
    /// Memory in MiB.
    pub memory_mib: Option<NonZeroU64>,
    /// What starts it.
    pub firmware: Option<Firmware>,
    /// Addresses of its network cards, in order.
    pub macs: Vec<Mac>,
    /// Whose these cards are.
    pub cards: Cards,
}

/// The machine on `disks`, of which `inspection` tells what is on them.
#[must_use]
pub fn machine(disks: &[PathBuf], inspection: &Inspection) -> (Vm, Vec<Decision>) {
    let (firmware, evidence) = firmware(inspection);
    let decisions = vec![Decision {
        what: format!("the machine is started by {firmware}"),
        evidence: evidence.to_owned(),
    }];
    let path = disks.first().cloned().unwrap_or_default();
    let host = inspection
        .system()
        .and_then(|system| system.hostname.clone());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let vm = Vm {
        name: host.unwrap_or_else(|| stem.into_owned()),
        path,
        described: Described::Disks,
        guest_os: None,
        hardware_version: None,
        firmware,
        vcpus: VCPUS,
        cores_per_socket: NonZeroU32::MIN,
        memory_mib: MEMORY_MIB,
        uuid: None,
        disks: (1..)
            .zip(disks)
            .map(|(line, disk)| VmDisk {
                at: format!("disk {}", line - 1),
                controller: Controller::Unspecified,
                named: disk.display().to_string(),
                path: disk.clone(),
                format: None,
                mode: DiskMode::Persistent,
                line,
            })
            .collect(),
        cdroms: Vec::new(),
        nics: nics(inspection),
        nvram: None,
        left_out: Vec::new(),
    };
    (vm, decisions)
}

/// What would start the disks, and on what evidence. No system on them needs to be known.
#[must_use]
pub fn firmware(inspection: &Inspection) -> (Firmware, &'static str) {
    match inspection.firmware() {
        model::Firmware::Uefi => (
            Firmware::Efi,
            "it has an EFI system partition, and no boot code in sector 0",
        ),
        model::Firmware::Bios => (
            Firmware::Bios,
            "it has boot code in sector 0, or a partition for it",
        ),
        model::Firmware::Either => (
            Firmware::Bios,
            "it could be started by BIOS and by UEFI; --firmware=uefi takes the other",
        ),
        model::Firmware::Unknown => (
            Firmware::Bios,
            "neither known boot code nor an EFI system partition was found; --firmware=uefi says otherwise",
        ),
    }
}

/// A card for every interface that the guest's configuration has one for, with the address where the
/// configuration says it; one card where it says nothing.
fn nics(inspection: &Inspection) -> Vec<Nic> {
    let network = inspection
        .system()
        .map_or(&[][..], |system| &system.network);
    let mut cards: Vec<(Option<&str>, Option<&str>)> = Vec::new();
    let is_card = |interface: &&Interface| {
        interface.kind == InterfaceKind::Ethernet && interface.name.as_deref() != Some("lo")
    };
    for interface in network.iter().filter(is_card) {
        let (name, mac) = (interface.name.as_deref(), interface.mac.as_deref());
        let known = cards.iter_mut().find(|(other, address)| {
            name.is_some() && *other == name || mac.is_some() && *address == mac
        });
        match known {
            Some((other, address)) => {
                *other = other.or(name);
                *address = address.or(mac);
            }
            None => cards.push((name, mac)),
        }
    }
    if cards.is_empty() {
        cards.push((None, None));
    }
    (0..)
        .zip(cards)
        .map(|(number, (name, mac))| Nic {
            number,
            // A configuration can say anything; what is no address is not one.
            mac: mac
                .and_then(|mac| mac.parse::<Mac>().ok())
                .map(|mac| mac.to_string()),
            model: NicModel::Unspecified,
            network: None,
            connection: None,
            pci_slot: None,
            guest_name: name.filter(is_interface_name).map(str::to_owned),
        })
        .collect()
}

impl Wishes {
    /// Puts them into `vm`, and tells what is left to chance.
    ///
    /// # Errors
    /// Usage for addresses of cards that the description gives others, or does not have.
    pub fn apply(&self, vm: &mut Vm) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        let mut decided = |what: String, evidence: &str| {
            decisions.push(Decision {
                what,
                evidence: evidence.to_owned(),
            });
        };
        let alone = vm.described == Described::Disks;
        if let Some(vcpus) = self.vcpus {
            vm.vcpus = vcpus;
            if vcpus.get() % vm.cores_per_socket.get() != 0 {
                vm.cores_per_socket = NonZeroU32::MIN;
            }
            decided(format!("the machine gets {vcpus} processors"), "--cpus");
        } else if alone {
            let what = format!("the machine gets {} processors", vm.vcpus);
            decided(what, "a disk does not say how many it had; --cpus does");
        }
        if let Some(memory) = self.memory_mib {
            vm.memory_mib = memory;
            decided(
                format!("the machine gets {memory} MiB of memory"),
                "--memory",
            );
        } else if alone {
            let what = format!("the machine gets {} MiB of memory", vm.memory_mib);
            decided(what, "a disk does not say how much it had; --memory does");
        }
        if let Some(firmware) = self.firmware {
            vm.firmware = firmware;
            decided(
                format!("the machine is started by {firmware}"),
                "--firmware",
            );
        }
        self.give_addresses(vm)?;
        decisions.extend(self.without_address(vm));
        Ok(decisions)
    }

    /// Gives the cards of `vm` the addresses that the user names.
    fn give_addresses(&self, vm: &mut Vm) -> Result<()> {
        if self.cards == Cards::Own && !self.macs.is_empty() {
            // Those of the old machine stay with it.
            vm.nics.iter_mut().for_each(|nic| nic.mac = None);
        }
        let mut macs = self.macs.iter();
        for nic in vm.nics.iter_mut().filter(|nic| nic.mac.is_none()) {
            nic.mac = macs.next().map(Mac::to_string);
        }
        let more: Vec<&Mac> = macs.collect();
        if let Some(first) = more.first().filter(|_| vm.described != Described::Disks) {
            let hint = match self.cards {
                Cards::Made => "its description gives its cards their addresses; leave --mac out",
                Cards::Own => "name an address for each card that its description has",
            };
            return Err(
                Error::usage(format!("the machine has no card that {first} could be for"))
                    .in_file(&vm.path)
                    .hint(hint),
            );
        }
        let next = u32::try_from(vm.nics.len()).unwrap_or(u32::MAX);
        for (number, mac) in (next..).zip(more) {
            vm.nics.push(Nic {
                number,
                mac: Some(mac.to_string()),
                model: NicModel::Unspecified,
                network: None,
                connection: None,
                pci_slot: None,
                guest_name: None,
            });
        }
        Ok(())
    }

    /// What becomes of the cards whose address nobody said: one sentence for all of them.
    fn without_address(&self, vm: &Vm) -> Option<Decision> {
        let left: Vec<String> = vm
            .nics
            .iter()
            .filter(|nic| nic.mac.is_none())
            .map(|nic| match &nic.guest_name {
                Some(name) => format!("the network card {name}"),
                None => format!("network card {}", nic.number),
            })
            .collect();
        if left.is_empty() {
            return None;
        }
        let cards = left.join(" and ");
        if self.cards == Cards::Own {
            let (what, evidence) = if self.macs.is_empty() {
                let what = format!("the address (MAC) of {cards} is not known");
                (
                    what,
                    "nothing says it; --mac does, once for each card in order".to_owned(),
                )
            } else {
                let what = format!("no card of the new machine is named for {cards}");
                let named = format!("--mac names {} of {}", self.macs.len(), vm.nics.len());
                (what, named)
            };
            let what = format!("{what}; what the guest calls it there is left to chance");
            return Some(Decision { what, evidence });
        }
        let made = if left.len() == 1 {
            format!("the address (MAC) of {cards} is not known, and the new machine makes one")
        } else {
            format!("the addresses (MAC) of {cards} are not known, and the new machine makes them")
        };
        let evidence = if vm.described == Described::Disks {
            "a disk does not say it; --mac does, once for each card in order"
        } else {
            "the machine's description does not say it"
        };
        Some(Decision {
            what: made,
            evidence: evidence.to_owned(),
        })
    }
}

/// Whether Linux could call a card so (`dev_valid_name` in net/core/dev.c, without what no tool gives one).
fn is_interface_name(name: &&str) -> bool {
    (1..16).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{ImageOptions, look, open_image};

    fn lone(nics: usize) -> Vm {
        let empty = Inspection {
            schema: model::SCHEMA,
            disks: Vec::new(),
            volumes: Vec::new(),
            systems: Vec::new(),
            chosen: None,
            choice: String::new(),
            findings: Vec::new(),
        };
        let (mut vm, decisions) = machine(&["/images/web.raw".into()], &empty);
        assert_eq!(decisions.len(), 1);
        let one = vm.nics[0].clone();
        vm.nics = vec![one; nics];
        vm
    }

    #[test]
    fn what_disks_do_not_say_is_set_and_told() {
        let mut vm = lone(1);
        assert_eq!((vm.name.as_str(), vm.firmware), ("web", Firmware::Bios));
        let told: Vec<String> = Wishes::default()
            .apply(&mut vm)
            .unwrap()
            .into_iter()
            .map(|decision| decision.what)
            .collect();
        for part in [
            "2 processors",
            "2048 MiB",
            "address (MAC) of network card 0",
        ] {
            assert!(told.iter().any(|what| what.contains(part)), "{told:?}");
        }
    }

    #[test]
    fn a_disk_without_a_known_system_has_the_firmware_that_its_partitions_tell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        for (kind, expected, part) in [
            (0xef_u8, Firmware::Efi, "it has an EFI system partition"),
            (0x83, Firmware::Bios, "neither known boot code nor"),
        ] {
            // One partition of 1 MiB at 1 MiB, and no boot code.
            let mut bytes = vec![0; 2 << 20];
            bytes[450] = kind;
            bytes[454..458].copy_from_slice(&2048_u32.to_le_bytes());
            bytes[458..462].copy_from_slice(&2048_u32.to_le_bytes());
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            std::fs::write(&path, bytes).unwrap();
            let image = open_image(&path, &ImageOptions::default()).unwrap();
            let inspection = look(&[image.disk()], &[]).unwrap().inspection;
            assert!(inspection.system().is_none());
            let (firmware, evidence) = firmware(&inspection);
            assert_eq!(firmware, expected, "{evidence}");
            assert!(evidence.starts_with(part), "{evidence}");
        }
    }

    #[test]
    fn addresses_go_to_the_cards_that_have_none_in_order() {
        let macs: Vec<Mac> = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
            .map(|mac| mac.parse().unwrap())
            .into();
        let wishes = Wishes {
            macs,
            vcpus: NonZeroU32::new(3),
            ..Wishes::default()
        };
        let mut vm = lone(1);
        vm.cores_per_socket = VCPUS;
        wishes.apply(&mut vm).unwrap();
        let given: Vec<_> = vm.nics.iter().map(|nic| nic.mac.clone().unwrap()).collect();
        assert_eq!(given, ["02:00:00:00:00:01", "02:00:00:00:00:02"]);
        assert_eq!(vm.cores_per_socket.get(), 1, "3 are not 2 a socket");

        let mut described = lone(1);
        described.described = Described::Libvirt;
        let error = wishes.apply(&mut described).unwrap_err().to_string();
        assert!(error.contains("02:00:00:00:00:02"), "{error}");
    }

    #[test]
    fn a_physical_machine_with_fewer_addresses_than_cards_is_told_of_once_and_makes_none() {
        let mut vm = lone(3);
        vm.described = Described::Vmx;
        for (nic, name) in vm.nics.iter_mut().zip(["ens192", "ens224", "ens256"]) {
            nic.guest_name = Some(name.to_owned());
            nic.mac = Some("00:0c:29:00:00:01".to_owned());
        }
        let mut wishes = Wishes {
            macs: vec!["02:00:00:00:00:01".parse().unwrap()],
            cards: Cards::Own,
            ..Wishes::default()
        };
        let old = vm.clone();
        let decisions = wishes.apply(&mut vm).unwrap();
        let addresses: Vec<Option<&str>> = vm.nics.iter().map(|nic| nic.mac.as_deref()).collect();
        assert_eq!(addresses, [Some("02:00:00:00:00:01"), None, None]);
        let [decision] = &decisions[..] else {
            panic!("{decisions:?}");
        };
        assert!(
            decision
                .what
                .contains("named for the network card ens224 and the network card ens256"),
            "{decision:?}"
        );
        assert!(!decision.what.contains("makes"), "{decision:?}");
        assert_eq!(decision.evidence, "--mac names 1 of 3");
        // The old machine's addresses stay in the guest where none is named.
        wishes.macs.clear();
        let mut vm = old.clone();
        assert!(wishes.apply(&mut vm).unwrap().is_empty());
        assert_eq!(vm.nics, old.nics);
        // More than the guest knows cards are a slip.
        wishes.macs = vec!["02:00:00:00:00:01".parse().unwrap(); 4];
        let error = wishes.apply(&mut vm).unwrap_err().to_string();
        assert!(error.contains("each card"), "{error}");
    }

    #[test]
    fn cards_without_an_address_are_told_of_in_one_sentence() {
        let mut vm = lone(2);
        let decisions = Wishes::default().apply(&mut vm).unwrap();
        let about = decisions
            .iter()
            .filter(|decision| decision.what.contains("MAC"));
        let about: Vec<&Decision> = about.collect();
        assert_eq!(about.len(), 1, "{decisions:?}");
        assert!(
            about[0].what.ends_with("the new machine makes them"),
            "{about:?}"
        );
    }
}
