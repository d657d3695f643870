//! udev rules that know a network card by the old machine's driver or slot.
//!
//! A rule that names a card by its address keeps working, but for one that asks for the driver as
//! well (`70-persistent-net.rules` of older installers): any driver will do. A rule by slot alone
//! cannot be mended without knowing the new machine, and is told.

use rehost_block::Result;
use rehost_inspect::model::{Place, Severity};

use super::text::{LineEdit, TextChanges};
use super::{Need, Planner};

const FOLDER: &str = "/etc/udev/rules.d";

impl Planner<'_> {
    /// Wishes for rules that ask for a driver.
    pub(super) fn loosen_udev_rules(&mut self, changes: &mut TextChanges) -> Result<()> {
        for name in self.files.names(FOLDER)? {
            if !name.ends_with(".rules") {
                continue;
            }
            let path = format!("{FOLDER}/{name}");
            let content = self.files.read(&path)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&content);
            for (number, line) in (1u32..).zip(text.lines()) {
                if line.trim_start().starts_with('#') || value(line, "NAME", "=").is_none() {
                    continue;
                }
                let by_address = ["ATTR{address}", "ATTRS{address}", "SYSFS{address}"]
                    .iter()
                    .any(|key| value(line, key, "==").is_some());
                let driver =
                    value(line, "DRIVERS", "==").filter(|driver| !driver.contains(['*', '?']));
                let by_slot = ["KERNELS", "BUSID", "ID", "ENV{ID_PATH}"]
                    .iter()
                    .any(|key| value(line, key, "==").is_some_and(|slot| slot.contains(':')));
                match driver {
                    Some(driver) if by_address => {
                        let edit = LineEdit::Replace {
                            from: driver.to_owned(),
                            to: "?*".to_owned(),
                        };
                        let reason = format!(
                            "the rule keeps a card's name only while {driver} drives the card"
                        );
                        changes.add(&path, number, edit, (reason, Need::Extra));
                    }
                    _ if by_slot && !by_address => self.note(
                        Severity::Warning,
                        "interface-named-by-slot",
                        "a udev rule names a network card by its slot, which the new machine \
                         numbers otherwise"
                            .to_owned(),
                        Some(Place::line(&path, number)),
                    ),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The quoted value of `key` with `operator` in a rule.
fn value<'a>(rule: &'a str, key: &str, operator: &str) -> Option<&'a str> {
    rule.split(',').find_map(|part| {
        let rest = part.trim().strip_prefix(key)?.trim_start();
        let quoted = rest.strip_prefix(operator)?.trim_start();
        quoted.strip_prefix('"')?.split('"').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_and_operators_too() {
        let rule = "SUBSYSTEM==\"net\", DRIVERS==\"?*\", ATTR{address}==\"00:0c\", NAME=\"eth0\"";
        assert_eq!(value(rule, "NAME", "="), Some("eth0"));
        assert_eq!(value(rule, "DRIVERS", "=="), Some("?*"));
        assert_eq!(value(rule, "DRIVER", "=="), None);
        assert_eq!(value("NAME==\"eth0\"", "NAME", "="), None);
    }
}
