//! The PowerShell script that makes a migrated guest's machine on Hyper-V.
//!
//! Source: Microsoft's reference of the Hyper-V module (Windows Server 2016 and later). A BIOS machine
//! becomes one of generation 1, whose firmware starts from its IDE controller only; a UEFI machine one of
//! generation 2, which has SCSI only. Secure Boot is off: Hyper-V's usual template starts nothing but
//! Windows. Left out on purpose: the UUID, which no cmdlet sets; a virtual switch, which is asked for.

use std::fmt::Write;

use rehost_block::{Error, Result};

use super::NewMachine;
use crate::source::Firmware;

/// Disks on the IDE controllers of generation 1, where its DVD drive has one place of four, and on each
/// SCSI controller.
const IDE_DISKS: usize = 3;
const SCSI_DISKS: usize = 64;

/// Synthetic network cards of one machine (Microsoft, "Plan for Hyper-V scalability": Windows Server 2016 has
/// the fewest).
pub(super) const MOST_CARDS: usize = 8;

/// Memory comes in steps of 2 MiB.
const MEMORY_STEP_MIB: u64 = 2;

/// Refuses what cannot be described.
pub(super) fn check(bus: &str, firmware: Firmware, disks: usize) -> Result<()> {
    let generation_2 = firmware != Firmware::Bios;
    match bus {
        "ide" if generation_2 => Err(Error::unsupported(
            "a machine of generation 2, which a UEFI guest needs, has no IDE disks",
        )
        .hint("leave --disk-bus out")),
        "storvsc" if !generation_2 => Err(Error::unsupported(
            "a machine of generation 1, which a BIOS guest needs, does not start from a SCSI disk",
        )
        .hint("leave --disk-bus out: its boot disk is then on IDE, and the others on SCSI")),
        "ide" | "storvsc" if disks <= SCSI_DISKS => Ok(()),
        "ide" | "storvsc" => Err(
            Error::unsupported("a Hyper-V machine is given too many disks")
                .mismatch(format!("at most {SCSI_DISKS}"), disks),
        ),
        _ => Err(
            Error::unsupported(format!("a Hyper-V machine has no image files on {bus}"))
                .hint("leave --disk-bus out"),
        ),
    }
}

/// The script.
///
/// # Errors
/// Unsupported for buses that Hyper-V's machines do not have, and for more disks than they take.
pub fn script(machine: &NewMachine) -> Result<String> {
    check(machine.bus, machine.firmware, machine.disks.len())?;
    let generation = match machine.firmware {
        Firmware::Bios => 1,
        Firmware::Efi | Firmware::EfiSecureBoot => 2,
    };
    let name = quoted(&machine.name);
    let mut script = format!(
        "#Requires -RunAsAdministrator\n\
         #Requires -Modules Hyper-V\n\
         # Makes the machine that the disk images beside this file belong to. It is not started.\n\
         # Example: .\\{}.ps1 -SwitchName 'Default Switch'\n\
         param(\n    \
             [string] $Name = {name},\n    \
             # The virtual switch for its network cards; without it they are connected to nothing.\n    \
             [string] $SwitchName,\n    \
             # Where the disk images are.\n    \
             [string] $Images = $PSScriptRoot\n\
         )\n\
         $ErrorActionPreference = 'Stop'\n\n\
         if (Get-VM | Where-Object Name -eq $Name) {{ throw \"a machine called $Name is there already\" }}\n\
         $vm = New-VM -Name $Name -Generation {generation} -MemoryStartupBytes {}MB -NoVHD\n\
         Set-VMMemory -VM $vm -DynamicMemoryEnabled $false\n\
         Set-VMProcessor -VM $vm -Count {}\n",
        one_line(&machine.name),
        machine.memory_mib.next_multiple_of(MEMORY_STEP_MIB),
        machine.vcpus
    );
    if generation == 2 {
        script.push_str("Set-VMFirmware -VM $vm -EnableSecureBoot Off\n");
    }
    script.push('\n');
    add_disks(&mut script, machine, generation);
    add_nics(&mut script, machine);
    // Windows PowerShell takes a file without a mark to be in the language's own code page.
    if !script.is_ascii() {
        script.insert(0, '\u{feff}');
    }
    Ok(script)
}

fn add_disks(script: &mut String, machine: &NewMachine, generation: u32) {
    // A machine of generation 1 starts from IDE, and has room for few more there.
    let few = machine.disks.len() <= IDE_DISKS;
    let scsi = |nth: usize| generation == 2 || (nth > 0 && !few);
    if (0..machine.disks.len()).any(scsi) {
        script.push_str(
            "if (-not (Get-VMScsiController -VM $vm)) {\n    \
                 Add-VMScsiController -VM $vm\n}\n",
        );
    }
    let (mut on_ide, mut location) = (0, 0);
    for (nth, disk) in machine.disks.iter().enumerate() {
        let place = if scsi(nth) {
            location += 1;
            format!(
                "-ControllerType SCSI -ControllerNumber 0 -ControllerLocation {}",
                location - 1
            )
        } else {
            // The DVD drive of a new machine is at 1:0.
            let (number, at) = [(0, 0), (0, 1), (1, 1)]
                .get(on_ide)
                .copied()
                .unwrap_or((1, 1));
            on_ide += 1;
            format!("-ControllerType IDE -ControllerNumber {number} -ControllerLocation {at}")
        };
        let path = quoted(&disk.name());
        // Writing to a string does not fail.
        let _ = writeln!(
            script,
            "Add-VMHardDiskDrive -VM $vm {place} -Path (Join-Path $Images {path})"
        );
    }
    if generation == 2 {
        script.push_str(
            "$boot = Get-VMHardDiskDrive -VM $vm -ControllerNumber 0 -ControllerLocation 0\n\
             Set-VMFirmware -VM $vm -FirstBootDevice $boot\n",
        );
    }
    script.push('\n');
}

fn add_nics(script: &mut String, machine: &NewMachine) {
    script.push_str(
        "# A new machine has a card of its own, with an address of its own.\n\
         Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter\n",
    );
    for (nth, nic) in machine.nics.iter().enumerate() {
        let card = quoted(nic.guest_name.as_deref().unwrap_or("Network Adapter"));
        let address = match &nic.mac {
            Some(mac) => format!(
                "-StaticMacAddress '{}'",
                mac.replace(':', "").to_ascii_uppercase()
            ),
            None => "-DynamicMacAddress".to_owned(),
        };
        let _ = writeln!(
            script,
            "$card{nth} = Add-VMNetworkAdapter -VM $vm -Name {card} {address} -Passthru\n\
             if ($SwitchName) {{ $card{nth} | Connect-VMNetworkAdapter -SwitchName $SwitchName }}"
        );
    }
}

/// A string that PowerShell takes as it is. It ends one at any of five quotes, and takes two as one.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for c in one_line(text).chars() {
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// Without what would end a comment.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::machine::sample;
    use super::*;

    #[test]
    fn a_bios_guest_becomes_a_machine_of_generation_1_that_starts_from_ide() {
        let script = script(&sample("ide", 1)).unwrap();
        for part in [
            "$vm = New-VM -Name $Name -Generation 1 -MemoryStartupBytes 1024MB -NoVHD",
            "Set-VMProcessor -VM $vm -Count 4",
            "-ControllerType IDE -ControllerNumber 0 -ControllerLocation 0 -Path (Join-Path $Images 'web-0.img')",
            "-StaticMacAddress '000C292EC031'",
            "-Name 'ens192'",
        ] {
            assert!(script.contains(part), "{part} is missing in\n{script}");
        }
        assert!(!script.contains("SecureBoot"), "{script}");
        // Several machines may have one name, and a name may hold wildcards.
        assert!(!script.contains("-VMName"), "{script}");
    }

    #[test]
    fn a_uefi_guest_becomes_a_machine_of_generation_2_without_secure_boot() {
        let mut machine = sample("storvsc", 2);
        machine.firmware = Firmware::EfiSecureBoot;
        machine.nics[0].mac = None;
        let script = script(&machine).unwrap();
        for part in [
            "-Generation 2",
            "Set-VMFirmware -VM $vm -EnableSecureBoot Off",
            "-ControllerType SCSI -ControllerNumber 0 -ControllerLocation 1",
            "-FirstBootDevice",
            "-DynamicMacAddress",
        ] {
            assert!(script.contains(part), "{part} is missing in\n{script}");
        }
        assert!(!script.contains("IDE"), "{script}");
    }

    #[test]
    fn more_disks_than_ide_has_places_go_to_scsi_after_the_first() {
        let few = script(&sample("ide", IDE_DISKS)).unwrap();
        assert!(!few.contains("SCSI"));
        assert!(few.contains("-ControllerType IDE -ControllerNumber 1 -ControllerLocation 1"));
        let many = script(&sample("ide", IDE_DISKS + 1)).unwrap();
        assert_eq!(many.matches("-ControllerType IDE").count(), 1);
        assert!(many.contains("-ControllerType SCSI -ControllerNumber 0 -ControllerLocation 2"));
        assert!(many.contains("Add-VMScsiController"));
    }

    #[test]
    fn a_name_cannot_become_a_command() {
        let mut machine = sample("ide", 0);
        machine.name = "x'; Remove-Item C:\\ \u{2019}\n# ü".to_owned();
        let script = script(&machine).unwrap();
        assert!(
            script.contains("$Name = 'x''; Remove-Item C:\\ \u{2019}\u{2019} # ü'"),
            "{script}"
        );
        assert!(script.starts_with('\u{feff}'));
        let comment = script
            .lines()
            .find(|line| line.contains("Example"))
            .unwrap();
        assert!(comment.starts_with("# Example"), "{script}");
    }

    #[test]
    fn what_hyper_v_does_not_have_is_refused_by_name() {
        for (bus, firmware, disks, part) in [
            ("nvme", Firmware::Bios, 1, "nvme"),
            ("ide", Firmware::Efi, 1, "generation 2"),
            ("storvsc", Firmware::Bios, 1, "generation 1"),
            ("storvsc", Firmware::Efi, 65, "too many disks"),
        ] {
            let error = check(bus, firmware, disks).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
