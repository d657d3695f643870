//! What a kernel's module tree has of the drivers that a target needs, and what is said about it.

use std::collections::BTreeSet;

use rehost_block::Result;
use rehost_inspect::model::{Kernel, Place, Severity};
use rehost_inspect::modules::{Dependencies, ModuleName, parse_names};

use super::Planner;
use crate::guest::GuestFiles;
use crate::target::Bus;

/// The modules of one kernel, by name.
pub(super) struct ModuleTree {
    builtin: BTreeSet<ModuleName>,
    modules: Dependencies,
}

impl ModuleTree {
    /// Reads the indexes in `folder`.
    pub(super) fn read(files: &dyn GuestFiles, folder: &str) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let content = files.read(&format!("{folder}/{name}"))?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&content).into_owned())
        };
        Ok(Self {
            builtin: parse_names(&text("modules.builtin")?),
            modules: Dependencies::parse(&text("modules.dep")?),
        })
    }

    /// Whether the kernel has `name` compiled in.
    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&ModuleName::new(name))
    }

    /// Whether the kernel has `name` at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.is_builtin(name) || self.modules.get(&ModuleName::new(name)).is_some()
    }

    /// Whether a disk on `bus` is found.
    pub(super) fn drives(&self, bus: &Bus) -> bool {
        bus.drivers.iter().all(|name| self.has(name))
    }
}

impl Planner<'_> {
    /// Says which of the target's drivers a kernel does not have at all.
    pub(super) fn note_drivers(
        &mut self,
        kernel: &Kernel,
        modules: &str,
        tree: &ModuleTree,
    ) -> Result<()> {
        let place = || Some(Place::file(format!("{modules}/modules.dep")));
        if !self.buses.iter().any(|bus| tree.drives(bus)) {
            let others: Vec<&str> = self
                .target
                .all_buses()
                .filter(|bus| tree.drives(bus))
                .map(|bus| bus.name)
                .collect();
            let fix = match others.as_slice() {
                [] => "install a kernel in the guest that has them".to_owned(),
                [first, ..] => format!(
                    "it has drivers for {}: choose --disk-bus {first}",
                    others.join(", ")
                ),
            };
            let what = format!(
                "kernel {} has no drivers for a disk on {} and will not find its root there",
                kernel.version,
                self.hardware()
            );
            let dep = Place::file(format!("{modules}/modules.dep"));
            self.obstacle(kernel, "kernel-lacks-driver", what, dep, fix)?;
        }
        if !self.target.network.iter().any(|name| tree.has(name)) {
            self.note(
                Severity::Warning,
                "kernel-lacks-driver",
                format!(
                    "kernel {} has no driver for the network card of {}",
                    kernel.version, self.target.title
                ),
                place(),
            );
        }
        Ok(())
    }

    /// Says when a kernel that boots without an initramfs cannot find its disk.
    pub(super) fn note_without_initramfs(
        &mut self,
        kernel: &Kernel,
        tree: &ModuleTree,
    ) -> Result<()> {
        let builtin = |bus: &Bus| bus.drivers.iter().all(|name| tree.is_builtin(name));
        let Some(image) = &kernel.image else {
            return Ok(());
        };
        if self.buses.iter().any(builtin) {
            return Ok(());
        }
        let what = format!(
            "kernel {} has no initramfs, and the drivers of {} are not built in",
            kernel.version,
            self.hardware()
        );
        let fix = "make one in the guest, with the drivers, and have the boot loader load it";
        let place = Place::file(image);
        self.obstacle(kernel, "kernel-without-initramfs", what, place, fix)
    }

    /// The target for people, with its bus where one was named.
    pub(super) fn hardware(&self) -> String {
        match self.options.bus {
            Some(bus) => format!("{} with its disk on {}", self.target.title, bus.title),
            None => self.target.title.to_owned(),
        }
    }
}
