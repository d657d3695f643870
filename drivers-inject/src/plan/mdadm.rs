//! What keeps mdadm from seeing its disks on another bus: `DEVICE` and `ARRAY` lines that list them by name.
//!
//! mdadm.conf(5): arrays are put together of the devices that `DEVICE` lines name, and of those alone; the
//! word `partitions` means all that the kernel knows, as without such a line. It is added: arrays are
//! still told apart by their UUIDs. `mdadm --incremental`, which udev calls, asks the same list. Debian and
//! dracut put a copy into the initramfs.
//!
//! Whatever an `ARRAY` line says must be true of a device (conf_match in mdadm's config.c), `devices=` too:
//! it goes where the line has a UUID, and is a note where nothing else is known to tell the array.

use rehost_block::Result;
use rehost_inspect::initramfs::Initramfs;
use rehost_inspect::model::{Place, Severity};

use super::text::{LineEdit, TextChanges, change_line};
use super::{Need, Note, Planner};
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
                let because = (reason.to_owned(), Need::Boot);
                changes.add(path, line, widen(keyword), because);
            }
            for list in members(&text, &self.disk_names()) {
                let Some(edit) = list.drop() else {
                    self.notes.push(Note {
                        fix: Some(
                            "in the guest, write the UUID that `mdadm --detail --brief` says in place \
                             of devices="
                                .to_owned(),
                        ),
                        ..Note::new(
                            Severity::Problem,
                            "array-by-device-names",
                            format!(
                                "mdadm takes nothing but {} for an array, and its disks will have \
                                 other names",
                                list.word
                            ),
                            vec![Place::line(path, list.line)],
                        )
                    });
                    continue;
                };
                let reason = "mdadm would not take the disks under their new names for the array";
                let because = (reason.to_owned(), Need::Boot);
                changes.add(path, list.line, edit, because);
            }
        }
        Ok(())
    }

    /// The same for the copies inside an initramfs.
    pub(super) fn array_devices_inside(&self, initramfs: &Initramfs) -> Vec<Override> {
        let copies = CONFIGS.map(|path| path.trim_start_matches('/'));
        let overrides = copies.into_iter().filter_map(|path| {
            let before = initramfs.read(path.as_bytes())?.to_vec();
            let text = String::from_utf8_lossy(&before);
            let mut content = before.clone();
            if let Some((line, keyword)) = narrow(&text, &self.disk_names()) {
                change_line(&mut content, line, &[&widen(keyword)]);
            }
            for list in members(&text, &self.disk_names()) {
                if let Some(edit) = list.drop() {
                    change_line(&mut content, list.line, &[&edit]);
                }
            }
            (content != before).then(|| Override {
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
    let lists: Vec<Statement<'_>> = statements(config)
        .into_iter()
        .filter(|statement| statement.is("device"))
        .collect();
    let words: Vec<&str> = lists
        .iter()
        .flat_map(|list| list.words.iter().map(|(_, word)| *word))
        .collect();
    let first = lists.first().map(|list| (list.line, list.keyword));
    first.filter(|_| leave_out(&words, disks) && !words.contains(&ALL))
}

/// Whether `words` name disks, and none for one of `disks`.
fn leave_out(words: &[&str], disks: &[&str]) -> bool {
    let others = ["/dev/md", "/dev/mapper/", "/dev/dm-"];
    let names_disks = words.iter().any(|word| {
        word.starts_with("/dev/") && !others.iter().any(|other| word.starts_with(other))
    });
    names_disks
        && disks.iter().any(|disk| {
            let prefix = format!("/dev/{disk}");
            !words.iter().any(|word| word.starts_with(&prefix))
        })
}

/// The `devices=` of an `ARRAY` line.
#[derive(Debug, PartialEq, Eq)]
struct Members<'a> {
    /// From 1.
    line: u32,
    /// As it is written.
    word: &'a str,
    /// Whether the array is told by its UUID too.
    has_uuid: bool,
}

impl Members<'_> {
    /// What takes it away, where mdadm knows the array without it.
    fn drop(&self) -> Option<LineEdit> {
        // A quoted blank would be in the middle of it.
        let whole = !self.word.contains(['"', '\'']);
        (self.has_uuid && whole).then(|| LineEdit::Replace {
            from: self.word.to_owned(),
            to: String::new(),
        })
    }
}

/// Every `devices=` that leaves out disks called `disks`.
fn members<'a>(config: &'a str, disks: &[&str]) -> Vec<Members<'a>> {
    let mut found = Vec::new();
    for array in statements(config) {
        if !array.is("array") {
            continue;
        }
        let has_uuid = array
            .words
            .iter()
            .any(|(_, word)| value(word, "uuid").is_some());
        for (line, word) in array.words {
            let Some(list) = value(word, "devices") else {
                continue;
            };
            let names: Vec<&str> = list.trim_matches(['"', '\'']).split(',').collect();
            if leave_out(&names, disks) {
                found.push(Members {
                    line,
                    word,
                    has_uuid,
                });
            }
        }
    }
    found
}

/// The value of a word `key=value`; mdadm compares keys without their case.
fn value<'a>(word: &'a str, key: &str) -> Option<&'a str> {
    let (own, value) = word.split_once('=')?;
    own.eq_ignore_ascii_case(key).then_some(value)
}

/// A keyword and what belongs to it.
struct Statement<'a> {
    /// From 1.
    line: u32,
    keyword: &'a str,
    /// Each with its line, which may be a later one.
    words: Vec<(u32, &'a str)>,
}

impl Statement<'_> {
    /// "Only the first three characters of a keyword are significant."
    fn is(&self, keyword: &str) -> bool {
        self.keyword.len() > 2 && keyword.starts_with(&self.keyword.to_ascii_lowercase())
    }
}

/// The statements of mdadm.conf.
fn statements(config: &str) -> Vec<Statement<'_>> {
    let mut found: Vec<Statement<'_>> = Vec::new();
    for (text, line) in config.lines().zip(1..) {
        let text = text.split('#').next().unwrap_or_default();
        let mut words = text.split_whitespace();
        // A line that begins with a blank goes on with the one before.
        if !text.starts_with([' ', '\t']) {
            let Some(keyword) = words.next() else {
                continue;
            };
            found.push(Statement {
                line,
                keyword,
                words: Vec::new(),
            });
        }
        if let Some(statement) = found.last_mut() {
            statement.words.extend(words.map(|word| (line, word)));
        }
    }
    found
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

    #[test]
    fn devices_of_an_array_go_where_it_has_a_uuid() {
        let disks = ["sd", "vd"];
        for (array, after) in [
            (
                "ARRAY /dev/md0 devices=/dev/sda1,/dev/sdb1 UUID=1:2:3:4\n",
                "ARRAY /dev/md0  UUID=1:2:3:4\n",
            ),
            (
                "array /dev/md0 uuid=1:2:3:4 # mirror\n\n  DEVICES=/dev/sd[ab]1\nMAILADDR root\n",
                "array /dev/md0 uuid=1:2:3:4 # mirror\n\n  \nMAILADDR root\n",
            ),
        ] {
            let found = members(array, &disks);
            assert_eq!(found.len(), 1, "{array}");
            let mut changed = array.as_bytes().to_vec();
            change_line(&mut changed, found[0].line, &[&found[0].drop().unwrap()]).unwrap();
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed, after);
            assert_eq!(members(&changed, &disks), []);
        }
        for kept in [
            "ARRAY /dev/md0 devices=/dev/sda1\nARRAY /dev/md1 UUID=1:2:3:4\n",
            "ARRAY /dev/md0 UUID=1:2:3:4 devices=\"/dev/sda1\"\n",
        ] {
            let found = members(kept, &disks);
            assert!(found.len() == 1 && found[0].drop().is_none(), "{kept}");
        }
        let both = "ARRAY /dev/md0 devices=/dev/sd*,/dev/vd*\nARRAY a devices=/dev/md1,/dev/md2\n#ARRAY a devices=/dev/sda1\n";
        assert_eq!(members(both, &disks), []);
    }
}
