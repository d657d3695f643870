//! Editing a guest: the plan, and its application to copy-on-write overlays.

use std::sync::Arc;

use rehost_block::{Disk, DiskMut, Overlay, Result};
use rehost_image::Secret;
use rehost_inject::apply::{Ledger, Refusal, apply, try_out};
use rehost_inject::plan::{
    EditPlan, NetworkCard, PlanOptions, SerialConsole, plan as plan_edits,
    plan_console as plan_console_edits,
};
use rehost_inject::target::{KVM, Target};
use rehost_inspect::Guest;

use crate::source::Vm;

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

/// Applies `plan` to overlays over `disks`, which stay as they are; `secrets` open encrypted volumes.
///
/// # Errors
/// As [`rehost_inject::apply::apply`].
pub fn edit(
    plan: &EditPlan,
    guest: &Guest,
    disks: &[Arc<dyn Disk>],
    secrets: &[Secret],
) -> Result<Edited> {
    let overlays = overlays(disks);
    let ledger = apply(plan, &guest.inspection, &writable(&overlays), secrets)?;
    Ok(Edited { overlays, ledger })
}

/// What is to be changed so that the chosen system of the guest on `disks` boots on `target`. It is
/// tried out on overlays that are thrown away: what a filesystem does not take is planned otherwise,
/// or told in a note.
///
/// # Errors
/// As [`rehost_inject::plan::plan`] and [`rehost_inject::apply::try_out`].
pub fn plan(
    guest: &Guest,
    disks: (&[Arc<dyn Disk>], &[Secret]),
    target: &Target,
    options: &PlanOptions,
) -> Result<EditPlan> {
    settled(guest, disks, options, |options| {
        plan_edits(&guest.inspection, guest.tree()?, target, options)
    })
}

/// What is to be changed so that the chosen system of the guest on `disks` is heard on its first serial
/// port, by `words` on its command lines: for a copy. Tried out as [`plan`] is.
///
/// # Errors
/// As [`plan`].
pub fn plan_console(
    guest: &Guest,
    disks: (&[Arc<dyn Disk>], &[Secret]),
    words: &'static str,
) -> Result<EditPlan> {
    let options = PlanOptions {
        serial_console: SerialConsole::Watch(words),
        ..PlanOptions::default()
    };
    // The target has no part in it.
    settled(guest, disks, &options, |options| {
        plan_console_edits(&guest.inspection, guest.tree()?, &KVM, options)
    })
}

/// The plan that the guest's filesystems take.
fn settled(
    guest: &Guest,
    (disks, secrets): (&[Arc<dyn Disk>], &[Secret]),
    options: &PlanOptions,
    planned: impl Fn(&PlanOptions) -> Result<EditPlan>,
) -> Result<EditPlan> {
    let mut options = options.clone();
    // Ends because every round but the last adds a way of writing a file that is in no later plan,
    // and of these there are finitely many.
    loop {
        let plan = planned(&options)?;
        let overlays = overlays(disks);
        let mut refusals = try_out(&plan, &guest.inspection, &writable(&overlays), secrets)?;
        refusals.retain(|new| {
            let known = |old: &Refusal| (&old.path, old.how) == (&new.path, new.how);
            !options.refusals.iter().any(known)
        });
        if refusals.is_empty() {
            return Ok(plan);
        }
        options.refusals.extend(refusals);
    }
}

fn overlays(disks: &[Arc<dyn Disk>]) -> Vec<Arc<Overlay>> {
    disks
        .iter()
        .map(|disk| Arc::new(Overlay::in_memory(Arc::clone(disk))))
        .collect()
}

fn writable(overlays: &[Arc<Overlay>]) -> Vec<Arc<dyn DiskMut>> {
    overlays
        .iter()
        .map(|overlay| Arc::clone(overlay) as Arc<dyn DiskMut>)
        .collect()
}

/// The network cards of a machine, with the names that their places gave them in the guest.
#[must_use]
pub fn cards(vm: &Vm) -> Vec<NetworkCard> {
    vm.nics
        .iter()
        .filter_map(|nic| {
            let mac = nic.mac.clone()?;
            Some(NetworkCard {
                mac,
                old_name: nic.guest_name.clone(),
            })
        })
        .collect()
}
