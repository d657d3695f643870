//! `plan`: what to change in a guest so that it boots on its target, and why. Changes nothing.
//!
//! The same guest and options give the same plan, down to the bytes of a rebuilt initramfs; a guest
//! that was converted gives an empty one. Each rule has its file below this one.
//!
//! Left out on purpose: guest tools of other hypervisors are not removed (those that would get in the
//! way are kept from starting), and no program of the guest is run; what is asked for at its first boot
//! it runs itself.

mod blacklists;
mod console;
mod devices;
mod drivers;
mod first_boot;
mod kernels;
mod labels;
mod lvm;
mod mdadm;
mod network;
mod obstacles;
mod text;
mod tools;
mod types;
mod udev;
mod uefi;
mod unified;

use rehost_block::{Error, Result};
use rehost_inspect::Inspection;
use rehost_inspect::model::GuestSystem;

use crate::apply::Refusal;
use crate::guest::GuestFiles;
use crate::target::{Bus, Target};
pub use first_boot::{FirstBoot, FirstBootFile};
use text::TextChanges;
use types::Need;
pub use types::{Change, Digest, Edit, EditPlan, How, LineChange, Note, SCHEMA};

/// Whether the guest is to talk on its first serial port for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SerialConsole {
    /// Its command lines stay as they are.
    #[default]
    Leave,
    /// `console=tty0 console=ttyS0,115200` is added to every entry.
    Add,
    /// These words are added to every entry, whatever it says: for a copy that is booted to be watched.
    Watch(&'static str),
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
    /// The bus of the machine's disks, one of the target's; all usual ones where it is not known.
    pub bus: Option<&'static Bus>,
    /// What the guest does once, when it starts on its new hardware.
    pub first_boot: FirstBoot,
    /// What the guest's filesystems were found not to take ([`crate::apply::try_out`]).
    pub refusals: Vec<Refusal>,
}

/// Everything that the rules read, and what they say.
struct Planner<'a> {
    system: &'a GuestSystem,
    files: &'a dyn GuestFiles,
    target: &'a Target,
    /// The buses that it is prepared for.
    buses: &'static [Bus],
    options: &'a PlanOptions,
    notes: Vec<Note>,
    /// Whether the names of interfaces went into an initramfs.
    names_inside: bool,
}

impl<'a> Planner<'a> {
    fn new(
        inspection: &'a Inspection,
        files: &'a dyn GuestFiles,
        target: &'a Target,
        options: &'a PlanOptions,
    ) -> Result<Self> {
        let system = inspection.system().ok_or_else(|| {
            Error::unsupported(format!(
                "no operating system to edit: {}",
                inspection.choice
            ))
        })?;
        Ok(Self {
            system,
            files,
            target,
            buses: options.bus.map_or(target.buses, std::slice::from_ref),
            options,
            notes: Vec::new(),
            names_inside: false,
        })
    }

    /// The plan with `edits`, and what there is to tell. Of edits that reach one file by several paths the
    /// first stays.
    fn plan_of(self, all: Vec<Edit>) -> EditPlan {
        let mut notes = self.notes;
        let mut edits: Vec<Edit> = Vec::new();
        for edit in all {
            let same =
                |known: &Edit| known.at.is_view(&edit.at) && known.inner_path == edit.inner_path;
            if !edits.iter().any(same) {
                edits.push(edit);
            }
        }
        notes.sort_by_key(|note| std::cmp::Reverse(note.severity));
        EditPlan {
            schema: SCHEMA,
            target: self.target.name,
            edits,
            notes,
        }
    }

    /// That of `edits` which changes the file at `path`, whatever path it names.
    fn edit_of<'e>(&self, path: &str, edits: &'e [Edit]) -> Result<Option<&'e Edit>> {
        let file = self.files.file(path)?;
        Ok(file.and_then(|file| edits.iter().find(|edit| edit.is_of(&file))))
    }

    /// The filesystem's reason why it does not take the file at `path` written like that.
    fn refusal(&self, path: &str, how: How) -> Option<&Refusal> {
        let mut refusals = self.options.refusals.iter();
        refusals.find(|refusal| refusal.path == path && refusal.how == how)
    }

    /// Another way for edits that were refused; those for which there is none become notes.
    fn settle(&mut self, edits: Vec<Edit>) -> Vec<Edit> {
        let mut settled = Vec::new();
        for mut edit in edits {
            if self.refusal(&edit.path, edit.how).is_some() && edit.how == How::Overwrite {
                edit.how = How::Allocate;
            }
            let Some(refusal) = self.refusal(&edit.path, edit.how).cloned() else {
                settled.push(edit);
                continue;
            };
            self.notes.push(Note::new(
                edit.weight(),
                "file-not-writable",
                format!(
                    "{} is not changed, because its filesystem does not take it ({}): {}",
                    edit.path, refusal.why, edit.reason
                ),
                edit.evidence,
            ));
        }
        settled
    }
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
    let mut planner = Planner::new(inspection, files, target, options)?;
    let mut changes = TextChanges::default();
    planner.note_findings();
    planner.rename_devices(&mut changes);
    planner.add_console(&mut changes)?;
    planner.widen_lvm_filters(&mut changes)?;
    planner.allow_drivers(&mut changes)?;
    planner.widen_array_devices(&mut changes)?;
    planner.loosen_udev_rules(&mut changes)?;
    planner.start_by_line(&mut changes)?;
    changes.join_paths(planner.files)?;
    let links = planner.name_interfaces()?;
    let initramfs = planner.rebuild_initramfs(&links)?;
    let initramfs = planner.edit_command_lines(&mut changes, initramfs)?;
    let mut edits = changes.into_edits(&mut planner)?;
    edits.extend(planner.write_names(&links)?);
    edits.extend(planner.write_gettys()?);
    edits.extend(planner.forget_lvm_devices()?);
    edits.extend(planner.disable_tools()?);
    edits.extend(planner.add_fallback_loader(inspection, &initramfs)?);
    edits.extend(planner.prepare_first_boot()?);
    let mut edits = planner.spare_verified(edits)?;
    edits.extend(planner.relabel(&edits)?);
    let mut edits = planner.settle(edits);
    edits.splice(..0, initramfs);
    Ok(planner.plan_of(edits))
}

/// Plans the serial console of `options` and nothing else, for a copy that is booted as it is otherwise.
///
/// # Errors
/// As [`plan`].
pub fn plan_console(
    inspection: &Inspection,
    files: &dyn GuestFiles,
    target: &Target,
    options: &PlanOptions,
) -> Result<EditPlan> {
    let mut planner = Planner::new(inspection, files, target, options)?;
    let mut changes = TextChanges::default();
    planner.add_console(&mut changes)?;
    changes.join_paths(planner.files)?;
    let mut edits = planner.edit_command_lines(&mut changes, Vec::new())?;
    edits.extend(planner.renew_loader(&edits)?);
    edits.extend(changes.into_edits(&mut planner)?);
    edits.extend(planner.write_gettys()?);
    let edits = planner.spare_verified(edits)?;
    let edits = planner.settle(edits);
    planner.note_silent(&edits)?;
    Ok(planner.plan_of(edits))
}
