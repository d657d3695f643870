//! What keeps LVM from seeing its disks on another bus: filters by name, and the devices file.
//!
//! `lvm.conf(5)`: a filter that accepts `/dev/sd*` alone hides `/dev/vda2`; what the filter accepts
//! is accepted under the new names too. `lvmdevices(8)`: the devices file lists disks by their
//! identity (`sys_wwid` and the like), which does not move; without the file LVM looks at all disks.
//! Both have a copy in dracut's images, where a file cannot be removed: there `use_devicesfile = 0`
//! is set (measured: root is not activated without it, and is with it).
//!
//! A guest on multipath is told of; nothing there needs a change, since no path of a virtual disk is
//! in its list.

use rehost_block::Result;
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{Place, Severity};

use super::text::{LineEdit, TextChanges};
use super::{Edit, Need, Planner};
use crate::initramfs::Override;

const CONFIGS: [&str; 2] = ["/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"];
const LOCAL: &str = "etc/lvm/lvmlocal.conf";
const DEVICES: &str = "/etc/lvm/devices/system.devices";
const OFF: &str = "devices {\n\tuse_devicesfile = 0\n}\n";

/// Identities of a disk that it has on its old machine alone.
const MACHINES_OWN: [&str; 9] = [
    "sys_wwid",
    "sys_serial",
    "mpath_uuid",
    "nvme_uuid",
    "scsi_name",
    "scsi_t10",
    "wwid_naa",
    "wwid_eui",
    "wwid_t10",
];

/// An addition to a filter.
#[derive(Debug, PartialEq, Eq)]
struct Addition {
    /// From 1.
    line: u32,
    /// What comes after its `[`.
    patterns: String,
}

impl Planner<'_> {
    /// Wishes for filters that would hide the new machine's disks.
    pub(super) fn widen_lvm_filters(&mut self, changes: &mut TextChanges) -> Result<()> {
        for path in CONFIGS {
            let text = self.files.read(path)?.unwrap_or_default();
            for addition in additions(&String::from_utf8_lossy(&text), &self.disk_names()) {
                let edit = LineEdit::Insert {
                    after: "[".to_owned(),
                    text: addition.patterns,
                };
                let reason = "LVM would not look at the disks under their new names";
                let because = (reason.to_owned(), Need::Boot);
                changes.add(path, addition.line, edit, because);
            }
        }
        if let Some(path) = ["/etc/multipath/wwids", "/etc/multipath/bindings"]
            .into_iter()
            .find(|path| self.files.kind(path).is_ok_and(|kind| kind.is_some()))
        {
            self.note(
                Severity::Note,
                "multipath",
                "the guest knows disks with several paths; on the new machine they have one each, \
                 and no multipath device is made for them"
                    .to_owned(),
                Some(Place::file(path)),
            );
        }
        Ok(())
    }

    /// The devices file goes when it lists disks by what they are on the old machine.
    pub(super) fn forget_lvm_devices(&mut self) -> Result<Vec<Edit>> {
        let (Some(found), Some(content)) = (self.files.file(DEVICES)?, self.files.read(DEVICES)?)
        else {
            return Ok(Vec::new());
        };
        let Some(line) = machines_own(&String::from_utf8_lossy(&content)) else {
            return Ok(Vec::new());
        };
        let reason = "LVM lists its disks by an identity that they do not have on the new machine; \
                      without the list it looks at all of them";
        let because = (reason.to_owned(), vec![Place::line(DEVICES, line)]);
        Ok(vec![Edit::of_removed(DEVICES, found, &content, because)])
    }

    /// The same for the copies inside an initramfs.
    pub(super) fn lvm_inside(&self, initramfs: &Initramfs) -> Vec<Override> {
        let mut overrides: Vec<Override> = Vec::new();
        for path in CONFIGS.map(|path| path.trim_start_matches('/')) {
            let Some(text) = initramfs.text(path) else {
                continue;
            };
            let additions = additions(&text, &self.disk_names());
            if !additions.is_empty() {
                overrides.push(Override {
                    path: path.to_owned(),
                    content: widened(&text, &additions).into_bytes(),
                });
            }
        }
        let listed = initramfs
            .text(DEVICES.trim_start_matches('/'))
            .is_some_and(|text| machines_own(&text).is_some());
        if listed {
            let known = overrides.iter().position(|one| one.path == LOCAL);
            let text = match known.map(|at| overrides.remove(at)) {
                Some(one) => String::from_utf8_lossy(&one.content).into_owned(),
                None => initramfs.text(LOCAL).unwrap_or_default().into_owned(),
            };
            if !text.contains(OFF) {
                overrides.push(Override {
                    path: LOCAL.to_owned(),
                    content: format!("{text}{OFF}").into_bytes(),
                });
            }
        }
        overrides
    }

    /// How Linux calls the disks of the new machine, each kind once.
    pub(super) fn disk_names(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.buses.iter().map(|bus| bus.disks).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The first line that names a disk by its identity on one machine.
fn machines_own(devices: &str) -> Option<u32> {
    let line = devices.lines().position(|line| {
        let kind = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("IDTYPE="));
        kind.is_some_and(|kind| MACHINES_OWN.contains(&kind))
    })?;
    u32::try_from(line + 1).ok()
}

/// What has to be added to the filters of a configuration. A filter that is written over several
/// lines is taken together.
fn additions(config: &str, disks: &[&str]) -> Vec<Addition> {
    let lines: Vec<&str> = config.lines().collect();
    let mut additions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        if !matches!(key.trim(), "filter" | "global_filter") || !value.contains('[') {
            continue;
        }
        let mut whole = value.to_owned();
        for next in lines.iter().skip(at + 1) {
            if whole.contains(']') && patterns(&whole).last().is_some_and(|p| is_all(p)) {
                break;
            }
            // The next setting: the list is closed.
            if next.contains('=') {
                break;
            }
            whole.push_str(next);
        }
        let patterns = wider(&patterns(&whole), disks);
        if let (false, Ok(line)) = (patterns.is_empty(), u32::try_from(at + 1)) {
            additions.push(Addition { line, patterns });
        }
    }
    additions
}

/// The quoted strings of a list.
fn patterns(list: &str) -> Vec<String> {
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Whether a pattern without its first letter fits everything: `|.*|`, `/.*/`.
fn is_all(pattern: &str) -> bool {
    let inner: String = pattern
        .chars()
        .skip(1)
        .filter(|character| !"|/^$*()".contains(*character))
        .collect();
    inner.is_empty() || inner == "."
}

/// Patterns that accept the new names of what `patterns` accept, ready to be put in front of them;
/// empty when nothing is hidden.
fn wider(patterns: &[String], disks: &[&str]) -> String {
    // What is behind the first pattern that fits everything is never reached.
    let end = patterns.iter().position(|pattern| is_all(pattern));
    let Some(end) = end.filter(|end| patterns.get(*end).is_some_and(|p| p.starts_with('r'))) else {
        return String::new();
    };
    let accepted: Vec<&str> = patterns
        .iter()
        .take(end)
        .filter(|pattern| pattern.starts_with('a'))
        .map(String::as_str)
        .collect();
    let names_disks = |pattern: &&&str| {
        [
            "/sd",
            "/hd",
            "/xvd",
            "/vd",
            "/nvme",
            "/disk/",
            "/cciss",
            "/mapper/mpath",
        ]
        .iter()
        .any(|name| pattern.contains(name))
    };
    let mut added: Vec<String> = Vec::new();
    for disk in disks {
        let own = format!("/{disk}");
        if accepted.iter().any(|pattern| pattern.contains(&own)) {
            continue;
        }
        for pattern in accepted.iter().filter(names_disks) {
            let renamed = ["/sd", "/hd", "/xvd", "/vd"]
                .iter()
                // The letter of a disk stands for the same disk in all of these.
                .find(|old| pattern.contains(*old) && *disk != "nvme")
                .map_or_else(
                    || format!("a|^/dev/{disk}|"),
                    |old| pattern.replace(old, &own),
                );
            if !added.contains(&renamed) {
                added.push(renamed);
            }
        }
    }
    added.iter().fold(String::new(), |mut text, pattern| {
        text.push_str(&format!(" \"{pattern}\","));
        text
    })
}

/// The configuration with `additions` in it.
fn widened(config: &str, additions: &[Addition]) -> String {
    let mut out = String::with_capacity(config.len() + 64);
    for (at, line) in config.split_inclusive('\n').enumerate() {
        let addition = additions
            .iter()
            .find(|addition| usize::try_from(addition.line) == Ok(at + 1));
        match (addition, line.split_once('[')) {
            (Some(addition), Some((before, after))) => {
                out.push_str(&format!("{before}[{}{after}", addition.patterns));
            }
            _ => out.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(config: &str, disks: &[&str]) -> Option<(u32, String)> {
        let mut found = additions(config, disks);
        assert!(found.len() < 2);
        let found = found.pop()?;
        Some((found.line, found.patterns))
    }

    #[test]
    fn a_filter_for_the_old_names_accepts_the_new_ones_too() {
        let config = "devices {\n\tfilter = [ \"a|^/dev/sda|\", \"r|.*|\" ]\n}\n";
        let expected = (2, " \"a|^/dev/vda|\",".to_owned());
        assert_eq!(one(config, &["vd"]), Some(expected));
        let widened = widened(config, &additions(config, &["vd"]));
        assert_eq!(
            widened,
            "devices {\n\tfilter = [ \"a|^/dev/vda|\", \"a|^/dev/sda|\", \"r|.*|\" ]\n}\n"
        );
        assert_eq!(one(&widened, &["vd"]), None, "once");
    }

    #[test]
    fn names_that_are_no_letters_become_a_pattern_for_the_whole_kind() {
        let config = "global_filter=[\"a|/dev/disk/by-id/scsi-3600.*|\",\n  \"r/.*/\"]\n";
        assert_eq!(
            one(config, &["vd"]),
            Some((1, " \"a|^/dev/vd|\",".to_owned()))
        );
        let config = "filter = [ \"a|/dev/sd.*|\", \"r|.*|\" ]";
        assert_eq!(
            one(config, &["nvme"]),
            Some((1, " \"a|^/dev/nvme|\",".to_owned()))
        );
    }

    #[test]
    fn filters_that_hide_nothing_of_the_new_machine_stay() {
        for config in [
            "filter = [ \"a|.*|\" ]",
            "filter = [ \"r|/dev/cdrom|\" ]",
            "filter = [ \"a|/dev/vd|\", \"a|/dev/sd|\", \"r|.*|\" ]",
            "# filter = [ \"a|/dev/sd|\", \"r|.*|\" ]",
            "filter = [ \"a|/dev/md0|\", \"r|.*|\" ]",
        ] {
            assert_eq!(one(config, &["vd"]), None, "{config}");
        }
    }

    #[test]
    fn only_identities_of_the_machine_count() {
        let header = "# LVM uses devices listed in this file.\nVERSION=1.1.2\n";
        let line = "IDTYPE=sys_wwid IDNAME=naa.6000c29f DEVNAME=/dev/sda2 PVID=x PART=2\n";
        assert_eq!(machines_own(&format!("{header}{line}")), Some(3));
        assert_eq!(
            machines_own(&format!("{header}IDTYPE=md_uuid IDNAME=x\n")),
            None
        );
    }
}
