//! `plan`: what to change in a guest so that it boots on its target, and why. Changes nothing.
//!
//! The same guest and options give the same plan, down to the bytes of a rebuilt initramfs; a guest
//! that was converted gives an empty one. Each rule has its file below this one.
//!
//! Left out on purpose: guest tools of other hypervisors are not removed (they stay dormant), LVM
//! device filters are not changed, and nothing that would run a program of the guest is planned.

mod console;
mod devices;
mod kernels;
mod network;
mod text;
mod types;

use rehost_block::{Error, Result};
use rehost_inspect::Inspection;
use rehost_inspect::model::GuestSystem;

use crate::guest::GuestFiles;
use crate::target::Target;
use text::TextChanges;
pub use types::{Change, Digest, Edit, EditPlan, How, LineChange, Note, SCHEMA};

/// Whether the guest is to talk on its first serial port for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SerialConsole {
    /// Its command lines stay as they are.
    #[default]
    Leave,
    /// `console=tty0 console=ttyS0,115200` is added to every entry.
    Add,
}

/// A network card of the machine that the guest comes from, and goes to with the same address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkCard {
    /// Its MAC address.
    pub mac: String,
    /// The name that the old machine's firmware gave it in the guest, where that is known
    /// (VMware: slot 192 is `ens192`).
    pub old_name: Option<String>,
}

/// What the caller decides.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Serial console in the guest.
    pub serial_console: SerialConsole,
    /// The machine's network cards, in order.
    pub cards: Vec<NetworkCard>,
}

/// Everything that the rules read, and what they say.
struct Planner<'a> {
    system: &'a GuestSystem,
    files: &'a dyn GuestFiles,
    target: &'a Target,
    options: &'a PlanOptions,
    notes: Vec<Note>,
}

/// Plans the edits that make the chosen system of `inspection` boot on `target`.
///
/// # Errors
/// Unsupported when there is no system that was chosen; Corrupt or Unsupported, naming the file, when
/// an initramfs or a module tree cannot be edited.
pub fn plan(
    inspection: &Inspection,
    files: &dyn GuestFiles,
    target: &Target,
    options: &PlanOptions,
) -> Result<EditPlan> {
    let system = inspection.system().ok_or_else(|| {
        Error::unsupported(format!(
            "no operating system to edit: {}",
            inspection.choice
        ))
    })?;
    let mut planner = Planner {
        system,
        files,
        target,
        options,
        notes: Vec::new(),
    };
    let mut changes = TextChanges::default();
    planner.rename_devices(&mut changes);
    planner.add_console(&mut changes)?;
    let links = planner.name_interfaces()?;
    let mut edits = planner.rebuild_initramfs(&links)?;
    edits.extend(changes.into_edits(&mut planner)?);
    edits.extend(planner.write_links(&links)?);
    let mut notes = planner.notes;
    notes.sort_by_key(|note| std::cmp::Reverse(note.severity));
    Ok(EditPlan {
        schema: SCHEMA,
        target: target.name,
        edits,
        notes,
    })
}
