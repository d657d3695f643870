//! What keeps mdadm from seeing its disks on another bus: `DEVICE` lines that list them by name.
//!
//! mdadm.conf(5): arrays are put together of the devices that `DEVICE` lines name, and of those alone; the
//! word `partitions` means all that the kernel knows, as without such a line. It is added: arrays are
//! still told apart by their UUIDs. `mdadm --incremental`, which udev calls, asks the same list. Debian and
//! dracut put a copy into the initramfs.
//!
//! Left out on purpose: `ARRAY` lines with `devices=`; no tool writes them, and mdadm takes their UUID too.

use rehost_block::Result;
use rehost_inspect::initramfs::Initramfs;

use super::Planner;
use super::text::{LineEdit, TextChanges, change_line};
use crate::initramfs::Override;

const CONFIGS: [&str; 2] = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"];

/// What stands for all devices.
const ALL: &str = "partitions";

impl Planner<'_> {
    /// Wishes for lists that would hide the new machine's disks.
    pub(super) fn widen_array_devices(&mut self, changes: &mut TextChanges) -> Result<()> {
        for path in CONFIGS {
            let text = self.files.read(path)?.unwrap_or_default();
            if let Some(line) = narrow(&String::from_utf8_lossy(&text), &self.disk_names()) {
                let reason = "mdadm would not look at the disks under their new names";
                changes.add(path, line, widen(), reason.to_owned());
            }
        }
        Ok(())
    }

    /// The same for the copies inside an initramfs.
    pub(super) fn array_devices_inside(&self, initramfs: &Initramfs) -> Vec<Override> {
        let copies = CONFIGS.map(|path| path.trim_start_matches('/'));
        let overrides = copies.into_iter().filter_map(|path| {
            let mut content = initramfs.read(path.as_bytes())?.to_vec();
            let line = narrow(&String::from_utf8_lossy(&content), &self.disk_names())?;
            change_line(&mut content, line, &[&widen()])?;
            Some(Override {
                path: path.to_owned(),
                content,
            })
        });
        overrides.collect()
    }
}

fn widen() -> LineEdit {
    LineEdit::Append {
        words: ALL.to_owned(),
    }
}

/// The first `DEVICE` line, from 1, where all of them together leave out disks called `disks`.
fn narrow(config: &str, disks: &[&str]) -> Option<u32> {
    let mut first = None;
    let mut words: Vec<&str> = Vec::new();
    let mut listing = false;
    for (line, number) in config.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default();
        let mut parts = line.split_whitespace();
        // A line that begins with a blank goes on with the one before.
        if !line.starts_with([' ', '\t']) {
            let keyword = parts.next().unwrap_or_default().to_ascii_lowercase();
            // "Only the first three characters of a keyword are significant."
            listing = keyword.len() > 2 && "device".starts_with(&keyword);
            if listing && first.is_none() {
                first = Some(number);
            }
        }
        if listing {
            words.extend(parts);
        }
    }
    let all = words.contains(&ALL);
    let fits = |disk: &str| {
        let prefix = format!("/dev/{disk}");
        words.iter().any(|word| word.starts_with(&prefix))
    };
    let names_disks = words.iter().any(|word| {
        word.starts_with("/dev/")
            && !["/dev/md", "/dev/mapper/", "/dev/dm-"]
                .iter()
                .any(|other| word.starts_with(other))
    });
    first.filter(|_| names_disks && !all && !disks.iter().all(|disk| fits(disk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_the_old_names_is_widened_once() {
        let config =
            "# mdadm.conf\nHOMEHOST <system>\nDEVICE /dev/sda1\n  /dev/sdb1\nARRAY /dev/md/0\n";
        assert_eq!(narrow(config, &["sd", "vd"]), Some(3));
        let mut changed = config.as_bytes().to_vec();
        change_line(&mut changed, 3, &[&widen()]).unwrap();
        let changed = String::from_utf8(changed).unwrap();
        assert!(
            changed.contains("\nDEVICE /dev/sda1 partitions\n"),
            "{changed}"
        );
        assert_eq!(narrow(&changed, &["sd", "vd"]), None);
    }

    #[test]
    fn lists_that_hide_nothing_of_the_new_machine_stay() {
        for config in [
            "ARRAY /dev/md/0 UUID=1:2:3:4\n",
            "DEVICE partitions containers\n",
            "DEVICE /dev/sd*\nDEV /dev/vd*\n",
            "DEVICE containers\n",
            "#DEVICE /dev/sda1\n",
        ] {
            assert_eq!(narrow(config, &["sd", "vd"]), None, "{config}");
        }
        assert_eq!(narrow("DEVICE /dev/sda1 /dev/sdb1\n", &["sd"]), None);
    }
}
