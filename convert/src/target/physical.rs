//! The note that goes with the images of a guest that moves to a physical machine: what to write where.
//!
//! It says only what is known: which image belongs on which disk, how the firmware is to be set, for
//! which controllers the guest was prepared, and by which addresses its network cards are recognised.

use std::fmt::Write;

use super::NewMachine;
use crate::source::Firmware;
use crate::voice::bytes;

/// The note.
#[must_use]
pub fn note(machine: &NewMachine) -> String {
    let title = format!("{} on a physical machine", machine.name);
    let mut note = format!("{title}\n{}\n\n", "=".repeat(title.chars().count()));
    note.push_str(
        "Each of these images is a whole disk, with its partition table and boot loader. Write it to the\n\
         disk itself, not to a partition, from a rescue system on the new machine or with the disk in\n\
         another one. What the disk held is lost: see with `lsblk -o NAME,SIZE,MODEL,SERIAL` which it is.\n\n",
    );
    for (nth, disk) in machine.disks.iter().enumerate() {
        let role = if nth == 0 {
            "to the disk that the machine boots from".to_owned()
        } else {
            format!("to disk {}", nth + 1)
        };
        let name = disk.name();
        let word = shell_word(&name);
        // Writing to a string does not fail.
        let _ = writeln!(
            note,
            "  {name}  ({}; {} bytes)  {role}\n\n    \
                 rehost convert --from raw --to raw --force {word} /dev/sdX\n    \
                 dd if={word} of=/dev/sdX bs=4M conv=fsync status=progress\n",
            bytes(disk.size),
            disk.size,
        );
    }
    note.push_str("Either command does; a disk must be as large as its image, and what is larger stays free.\n\n");
    let firmware = match machine.firmware {
        Firmware::Bios => "Set the firmware to legacy (BIOS, CSM) boot from that disk.",
        Firmware::Efi => {
            "Set the firmware to UEFI boot, with Secure Boot off. It starts \\EFI\\BOOT\\BOOTX64.EFI of that\n\
             disk, because a new machine knows no boot entry of the old one."
        }
        Firmware::EfiSecureBoot => {
            "Set the firmware to UEFI boot; Secure Boot was on and may stay so. It starts\n\
             \\EFI\\BOOT\\BOOTX64.EFI of that disk, because a new machine knows no boot entry of the old one."
        }
    };
    let _ = writeln!(note, "{firmware}\n");
    let _ = writeln!(
        note,
        "The guest finds its disks on: {}.\n",
        machine.prepared_for.join(", ")
    );
    let _ = writeln!(
        note,
        "The old machine had {} processors and {} of memory.\n",
        machine.vcpus,
        bytes(machine.memory_mib << 20)
    );
    add_nics(&mut note, machine);
    note
}

fn add_nics(note: &mut String, machine: &NewMachine) {
    let cards: Vec<String> = machine
        .nics
        .iter()
        .filter_map(|nic| {
            let mac = nic.mac.as_deref()?;
            Some(match &nic.guest_name {
                Some(name) => format!("  {mac}  called {name}"),
                None => format!("  {mac}"),
            })
        })
        .collect();
    if cards.is_empty() {
        note.push_str(
            "The addresses (MAC) of the network cards were not known, so their names may be others than the\n\
             guest's network configuration has: see `ip link` after the first start.\n",
        );
        return;
    }
    let _ = writeln!(
        note,
        "The guest knows its network cards by these addresses (MAC):\n\n{}\n\n\
         A card of another address gets another name. Give the addresses of the new machine's cards with\n\
         --mac when you migrate, or put them into the guest's /etc/systemd/network/10-rehost-*.link.",
        cards.join("\n")
    );
    let others = machine.nics.iter().filter(|nic| nic.mac.is_none());
    let others: Vec<String> = others
        .map(|nic| match &nic.guest_name {
            Some(name) => name.clone(),
            None => format!("network card {}", nic.number),
        })
        .collect();
    if !others.is_empty() {
        let _ = writeln!(
            note,
            "\nIt has these cards too, for which no address was named: {}.",
            others.join(", ")
        );
    }
}

/// `text` as one word of a shell's.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') {
        return text.to_owned();
    }
    format!("./'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::super::machine::sample;
    use super::*;

    #[test]
    fn a_note_says_what_goes_where() {
        let mut machine = sample("sata", 2);
        let text = note(&machine);
        for part in [
            "web-0.img  (3.00 GiB; 3221225472 bytes)  to the disk that the machine boots from",
            "dd if=web-1.img of=/dev/sdX",
            "legacy (BIOS, CSM)",
            "SATA (AHCI), NVMe",
            "00:0c:29:2e:c0:31  called ens192",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("no address was named"), "{text}");
        for (number, name) in [(1, Some("ens224")), (3, None)] {
            machine.nics.push(super::super::NewNic {
                number,
                mac: None,
                guest_name: name.map(str::to_owned),
            });
        }
        let text = note(&machine);
        assert!(
            text.contains("no address was named: ens224, network card 3."),
            "{text}"
        );
        machine.firmware = Firmware::Efi;
        machine.nics.clear();
        let text = note(&machine);
        assert!(
            text.contains("BOOTX64.EFI") && text.contains("not known"),
            "{text}"
        );
    }

    #[test]
    fn a_file_name_stays_one_word_of_a_shell() {
        assert_eq!(shell_word("web.raw"), "web.raw");
        assert_eq!(shell_word("a b'; rm -rf ~"), r"./'a b'\''; rm -rf ~'");
        assert_eq!(shell_word("-x"), "./'-x'");
    }
}
