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
            let text = String::from_utf8_lossy(&text);
            if let Some((line, keyword)) = narrow(&text, &self.disk_names()) {
                let reason = "mdadm would not look at the disks under their new names";
                changes.add(path, line, widen(keyword), reason.to_owned());
            }
        }
        Ok(())
    }

    /// The same for the copies inside an initramfs.
    pub(super) fn array_devices_inside(&self, initramfs: &Initramfs) -> Vec<Override> {
        let copies = CONFIGS.map(|path| path.trim_start_matches('/'));
        let overrides = copies.into_iter().filter_map(|path| {
            let mut content = initramfs.read(path.as_bytes())?.to_vec();
            let text = String::from_utf8_lossy(&content).into_owned();
            let (line, keyword) = narrow(&text, &self.disk_names())?;
            change_line(&mut content, line, &[&widen(keyword)])?;
            Some(Override {
                path: path.to_owned(),
                content,
            })
        });
        overrides.collect()
    }
}

/// Behind the keyword as it is written: the end of the line may be a comment.
fn widen(keyword: &str) -> LineEdit {
    LineEdit::Insert {
        after: keyword.to_owned(),
        text: format!(" {ALL}"),
    }
}

/// The first `DEVICE` line, from 1, and its keyword, where all of them together leave out disks called
/// `disks`.
fn narrow<'a>(config: &'a str, disks: &[&str]) -> Option<(u32, &'a str)> {
    let mut first = None;
    let mut words: Vec<&str> = Vec::new();
    let mut listing = false;
    for (line, number) in config.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default();
        let mut parts = line.split_whitespace();
        // A line that begins with a blank goes on with the one before.
        if !line.starts_with([' ', '\t']) {
            let keyword = parts.next().unwrap_or_default();
            // "Only the first three characters of a keyword are significant."
            listing = keyword.len() > 2 && "device".starts_with(&keyword.to_ascii_lowercase());
            if listing && first.is_none() {
                first = Some((number, keyword));
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
        for (list, wider) in [
            (
                "DEVICE /dev/sda1\n  /dev/sdb1\n",
                "DEVICE partitions /dev/sda1\n  /dev/sdb1\n",
            ),
            (
                "DEVICE /dev/sd[ab]1 # the mirror\n",
                "DEVICE partitions /dev/sd[ab]1 # the mirror\n",
            ),
            ("dev /dev/sda1\n", "dev partitions /dev/sda1\n"),
        ] {
            let config = format!("# mdadm.conf\nHOMEHOST <system>\n{list}ARRAY /dev/md/0\n");
            let (line, keyword) = narrow(&config, &["sd", "vd"]).unwrap();
            assert_eq!(line, 3);
            let mut changed = config.as_bytes().to_vec();
            change_line(&mut changed, line, &[&widen(keyword)]).unwrap();
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed, config.replace(list, wider));
            assert_eq!(narrow(&changed, &["sd", "vd"]), None);
        }
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
