//! Which engine boots a machine, and the one sentence that says why.
//!
//! A `/dev/kvm` that opens may still be unable to run a guest, so the built-in engine is chosen only
//! where the self-test passes. QEMU takes what the built-in engine does not have, with the host's
//! processor where the self-test passes and by translation otherwise.

use std::fmt;
use std::str::FromStr;

use rehost_block::{Error, Result};
use serde::Serialize;

use crate::{Accelerator, Bus, Engine, Machine, QemuEngine, Start};

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// Whatever works here.
    #[default]
    Auto,
    /// The built-in engine.
    Kvm,
    /// QEMU.
    Qemu,
}

impl EngineChoice {
    /// All choices, as a command line offers them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Kvm, Self::Qemu];

    /// The word on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EngineChoice {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.as_str() == word)
            .ok_or_else(|| {
                Error::usage(format!("no engine is called '{word}'"))
                    .hint("choose auto, kvm or qemu")
            })
    }
}

/// An engine and why it was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Why, in one sentence, for the report.
    pub reason: String,
}

/// Chooses an engine for `machine`.
///
/// # Errors
/// Unsupported when what was asked for cannot run here, or nothing can; the message has the remedy.
pub fn choose(choice: EngineChoice, machine: &Machine) -> Result<Chosen> {
    let (pick, reason) = pick(choice, machine, self_test())?;
    match pick {
        #[cfg(target_arch = "x86_64")]
        Pick::Kvm => Ok(Chosen {
            engine: Box::new(crate::kvm::KvmEngine),
            reason,
        }),
        #[cfg(not(target_arch = "x86_64"))]
        Pick::Kvm => Err(Error::internal(
            "the built-in engine was chosen where there is none",
        )),
        Pick::Qemu(accelerator) => {
            let engine = QemuEngine::find()
                .map_err(|error| {
                    Error::unsupported("no engine can boot this machine")
                        .because(format!("{reason}; {error}"))
                })?
                .with_accelerator(accelerator);
            Ok(Chosen {
                reason: format!("{reason} (QEMU {})", engine.version()),
                engine: Box::new(engine),
            })
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn self_test() -> Result<()> {
    crate::kvm::self_test()
}

#[cfg(not(target_arch = "x86_64"))]
fn self_test() -> Result<()> {
    Err(Error::unsupported(
        "/dev/kvm runs no x86-64 guests on this processor",
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pick {
    Kvm,
    Qemu(Accelerator),
}

/// The decision: pure.
fn pick(choice: EngineChoice, machine: &Machine, self_test: Result<()>) -> Result<(Pick, String)> {
    let lacks = lacks(machine);
    Ok(match (choice, self_test, lacks) {
        (EngineChoice::Kvm, Err(error), _) => return Err(error),
        (EngineChoice::Kvm, Ok(()), Some(what)) => {
            return Err(
                Error::unsupported(format!("the built-in engine has no {what}"))
                    .hint("use --engine qemu or auto"),
            );
        }
        (EngineChoice::Kvm, Ok(()), None) => (
            Pick::Kvm,
            "the built-in engine was asked for, and /dev/kvm passed its self-test".to_owned(),
        ),
        (EngineChoice::Auto, Ok(()), None) => (
            Pick::Kvm,
            "the built-in engine, because /dev/kvm passed its self-test".to_owned(),
        ),
        (EngineChoice::Auto, Ok(()), Some(what)) => (
            Pick::Qemu(Accelerator::Kvm),
            format!("QEMU on /dev/kvm, because the built-in engine has no {what}"),
        ),
        (EngineChoice::Auto, Err(error), _) => (
            Pick::Qemu(Accelerator::Tcg),
            format!("QEMU by translation, because {}", error.without_hint()),
        ),
        (EngineChoice::Qemu, Ok(()), _) => (
            Pick::Qemu(Accelerator::Kvm),
            "QEMU was asked for, and /dev/kvm passed its self-test".to_owned(),
        ),
        (EngineChoice::Qemu, Err(error), _) => (
            Pick::Qemu(Accelerator::Tcg),
            format!(
                "QEMU was asked for, and translates, because {}",
                error.without_hint()
            ),
        ),
    })
}

/// What `machine` needs and the built-in engine does not have.
fn lacks(machine: &Machine) -> Option<&'static str> {
    if matches!(machine.start, Start::Firmware(_)) {
        return Some("firmware");
    }
    if !machine.nics.is_empty() {
        return Some("network card");
    }
    let mut buses = machine.disks.iter().map(|disk| disk.bus);
    buses
        .find(|bus| *bus != Bus::VirtioBlk)
        .map(Bus::controller)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rehost_block::{Memory, Overlay, StorageDisk};

    use super::*;
    use crate::{DirectBoot, Firmware, MachineDisk};

    fn machine(bus: Bus, firmware: bool) -> Machine {
        let base = Arc::new(StorageDisk::new(Arc::new(Memory::new("d", vec![0; 512]))));
        Machine {
            vcpus: 1,
            memory_mib: 512,
            disks: vec![MachineDisk {
                disk: Arc::new(Overlay::in_memory(base)),
                bus,
            }],
            nics: Vec::new(),
            start: if firmware {
                Start::Firmware(Firmware::Bios)
            } else {
                Start::Direct(DirectBoot {
                    kernel: Vec::new(),
                    initrd: None,
                    command_line: String::new(),
                })
            },
        }
    }

    fn broken() -> Result<()> {
        Err(Error::unsupported("/dev/kvm cannot run a kernel").hint("use --engine qemu"))
    }

    #[test]
    fn auto_takes_the_built_in_engine_only_where_it_works_and_suffices() {
        let auto = |machine, test| pick(EngineChoice::Auto, &machine, test).unwrap();
        let direct = || machine(Bus::VirtioBlk, false);
        assert_eq!(auto(direct(), Ok(())).0, Pick::Kvm);

        let (pick, reason) = auto(direct(), broken());
        assert_eq!(pick, Pick::Qemu(Accelerator::Tcg));
        assert_eq!(
            reason,
            "QEMU by translation, because /dev/kvm cannot run a kernel"
        );
        for (machine, named) in [
            (machine(Bus::VirtioBlk, true), "no firmware"),
            (machine(Bus::Pvscsi, false), "no VMware SCSI controller"),
            (machine(Bus::Ahci, false), "no AHCI controller"),
            (machine(Bus::VirtioScsi, false), "no virtio-scsi controller"),
        ] {
            let (pick, reason) = auto(machine, Ok(()));
            assert_eq!(pick, Pick::Qemu(Accelerator::Kvm));
            assert!(reason.contains(named), "{reason}");
        }
    }

    #[test]
    fn an_engine_that_was_asked_for_is_taken_or_refused() {
        let asked = |choice, machine: &Machine, test| pick(choice, machine, test);
        let direct = machine(Bus::VirtioBlk, false);
        let (kvm, qemu) = (EngineChoice::Kvm, EngineChoice::Qemu);
        assert_eq!(asked(kvm, &direct, Ok(())).unwrap().0, Pick::Kvm);
        let error = asked(kvm, &direct, broken()).unwrap_err();
        assert!(error.to_string().contains("cannot run a kernel"));
        let error = asked(kvm, &machine(Bus::Ahci, false), Ok(())).unwrap_err();
        assert!(error.to_string().contains("no AHCI controller"), "{error}");
        let found = asked(qemu, &direct, Ok(())).unwrap().0;
        assert_eq!(found, Pick::Qemu(Accelerator::Kvm));
        let found = asked(qemu, &direct, broken()).unwrap().0;
        assert_eq!(found, Pick::Qemu(Accelerator::Tcg));
    }

    #[test]
    fn words_on_the_command_line_are_engines_or_errors() {
        for choice in EngineChoice::ALL {
            assert_eq!(choice.to_string().parse::<EngineChoice>().unwrap(), choice);
        }
        let error = "xen".parse::<EngineChoice>().unwrap_err().to_string();
        assert!(error.contains("'xen'") && error.contains("auto, kvm or qemu"));
    }
}
