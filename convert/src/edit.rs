//! Editing a guest: the plan, and its application to copy-on-write overlays.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Overlay, Result};
use rehost_inject::apply::{Ledger, WritableDisk, apply};
use rehost_inject::plan::{EditPlan, NetworkCard, PlanOptions, plan as plan_edits};
use rehost_inject::target::Target;
use rehost_inspect::Guest;

use crate::source::vmx::Vm;

/// Overlays over a guest's disks, with the edits in them.
#[derive(Debug)]
pub struct Edited {
    /// One a disk, in the same order.
    pub overlays: Vec<Arc<Overlay>>,
    /// What was changed.
    pub ledger: Ledger,
}

impl Edited {
    /// The edited disks as the guest will see them.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.overlays
            .iter()
            .map(|overlay| Arc::clone(overlay) as Arc<dyn Disk>)
            .collect()
    }
}

/// Applies `plan` to overlays over `disks`, which stay as they are.
///
/// # Errors
/// As [`rehost_inject::apply::apply`].
pub fn edit(plan: &EditPlan, guest: &Guest, disks: &[Arc<dyn Disk>]) -> Result<Edited> {
    let overlays: Vec<Arc<Overlay>> = disks
        .iter()
        .map(|disk| Arc::new(Overlay::in_memory(Arc::clone(disk))))
        .collect();
    let writable: Vec<WritableDisk> = overlays
        .iter()
        .zip(&guest.inspection.disks)
        .map(|(overlay, found)| WritableDisk {
            disk: Arc::clone(overlay) as Arc<dyn DiskMut>,
            layout: found.layout.clone(),
        })
        .collect();
    let ledger = apply(plan, &writable)?;
    Ok(Edited { overlays, ledger })
}

/// What is to be changed so that the chosen system boots on `target`.
///
/// # Errors
/// As [`rehost_inject::plan::plan`].
pub fn plan(guest: &Guest, target: &Target, options: &PlanOptions) -> Result<EditPlan> {
    plan_edits(&guest.inspection, guest.tree()?, target, options)
}

/// The network cards of a VMware machine, with the names its slots gave them in the guest: udev
/// names a card in hot-plug slot N `ensN` (systemd.net-naming-scheme(7)).
#[must_use]
pub fn cards(vm: &Vm) -> Vec<NetworkCard> {
    vm.nics
        .iter()
        .filter_map(|nic| {
            let mac = nic.mac.clone()?;
            Some(NetworkCard {
                mac,
                old_name: nic.pci_slot.map(|slot| format!("ens{slot}")),
            })
        })
        .collect()
}
