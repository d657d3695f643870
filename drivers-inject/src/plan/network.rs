//! Interface names that the guest's configuration relies on are pinned to the cards' addresses.
//!
//! The new machine has its cards in other slots, so `ens192` would become `enp1s0` and the
//! configured address would go nowhere. The addresses of the cards stay: a systemd `.link` file per
//! card keeps the name, in the initramfs (where the name is given first) and in the root filesystem.
//! Guests with a udev from before systemd get a rule in `70-persistent-net.rules` instead.

use rehost_block::{Error, Result};
use rehost_inspect::model::{
    FilesystemRef, Init, Interface, InterfaceKind, NetworkTool, Place, Severity,
};

use super::{Change, Edit, How, LineChange, NetworkCard, Note, Planner};
use crate::initramfs::Override;

/// Where systemd-udevd looks first.
const FOLDER: &str = "/etc/systemd/network";

/// Where older udev has the rules that its own generator writes.
const RULES: &str = "/etc/udev/rules.d/70-persistent-net.rules";
const RULES_FOLDER: &str = "/etc/udev/rules.d";

/// Who names a guest's cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// systemd's udev, by `.link` files.
    Links,
    /// An older udev, by its rules.
    Rules,
    /// The kernel alone.
    Nobody,
}

/// A name to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    name: String,
    mac: String,
    evidence: Vec<Place>,
}

impl Link {
    fn path(&self) -> String {
        format!("{FOLDER}/10-rehost-{}.link", self.name)
    }

    fn content(&self) -> Vec<u8> {
        format!(
            "# Keeps the name that this machine's configuration uses, whatever slot the card is in.\n\
             [Match]\nMACAddress={}\n\n[Link]\nName={}\n",
            self.mac, self.name
        )
        .into_bytes()
    }

    /// As a rule of an older udev, in the form of its `75-persistent-net-generator.rules`.
    fn rule(&self) -> String {
        format!(
            "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{address}}==\"{}\", \
             ATTR{{type}}==\"1\", NAME=\"{}\"\n",
            self.mac, self.name
        )
    }

    /// As a file of the initramfs.
    pub(super) fn inside(&self) -> Override {
        Override {
            path: self.path().trim_start_matches('/').to_owned(),
            content: self.content(),
        }
    }
}

impl Planner<'_> {
    /// The names that need a link.
    pub(super) fn name_interfaces(&mut self) -> Result<Vec<Link>> {
        let network = &self.system.network;
        let pinned = |mac: &str| {
            network.iter().any(|interface| {
                let pins = matches!(
                    interface.configured_by,
                    NetworkTool::UdevRule | NetworkTool::SystemdLink
                );
                pins && same_mac(interface.mac.as_deref(), mac)
            })
        };
        let mut names: Vec<(&str, &Interface)> = Vec::new();
        for interface in network {
            let Some(name) = interface.name.as_deref().filter(|name| is_card(name)) else {
                continue;
            };
            if interface.kind != InterfaceKind::Ethernet {
                continue;
            }
            if !names.iter().any(|(other, _)| *other == name) {
                names.push((name, interface));
            }
        }
        // What a bond, bridge or VLAN is made of need not be configured by itself.
        for interface in network {
            for name in interface.uses.iter().filter(|name| is_card(name)) {
                let own = network.iter().any(|other| {
                    other.kind != InterfaceKind::Ethernet && other.name.as_ref() == Some(name)
                });
                if !own && !names.iter().any(|(other, _)| other == name) {
                    names.push((name, interface));
                }
            }
        }
        let mut links: Vec<Link> = Vec::new();
        let mut cards: Vec<NetworkCard> = self.options.cards.clone();
        cards.retain(|card| is_mac(&card.mac));
        let known = cards.clone();
        let mut take = |mac: &str| cards.retain(|card| !same_mac(Some(&card.mac), mac));
        // By the address that the configuration itself names, then by the old machine's slot.
        names.retain(|(name, interface)| {
            let by_slot = |card: &&NetworkCard| card.old_name.as_deref() == Some(*name);
            let mac = network
                .iter()
                .filter(|other| other.name.as_deref() == Some(*name))
                .filter_map(|other| other.mac.clone())
                .find(|mac| is_mac(mac))
                .or_else(|| {
                    let card = known.iter().find(by_slot)?;
                    Some(card.mac.clone())
                });
            let Some(mac) = mac else { return true };
            take(&mac);
            links.push(Link {
                name: (*name).to_owned(),
                mac: mac.to_ascii_lowercase(),
                evidence: vec![interface.place.clone()],
            });
            false
        });
        // What is left over on both sides is paired in order where there are as many.
        if names.len() == cards.len() {
            for ((name, interface), card) in names.iter().zip(&cards) {
                links.push(Link {
                    name: (*name).to_owned(),
                    mac: card.mac.to_ascii_lowercase(),
                    evidence: vec![interface.place.clone()],
                });
            }
        } else if !names.is_empty() {
            let list: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            self.notes.push(Note::new(
                Severity::Warning,
                "interface-name-not-pinned",
                format!(
                    "no card of the machine is known for {}; the name may change and its \
                     configuration with it go unused",
                    list.join(", ")
                ),
                names
                    .iter()
                    .map(|(_, interface)| interface.place.clone())
                    .collect(),
            ));
        }
        links.retain(|link| !pinned(&link.mac));
        if !links.is_empty() && self.naming()? == Naming::Nobody {
            // The kernel calls a machine's only card so, whatever it is.
            if links.len() == 1 && links[0].name == "eth0" && known.len() < 2 {
                return Ok(Vec::new());
            }
            let list: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            self.notes.push(Note::new(
                Severity::Warning,
                "interface-name-not-pinned",
                format!(
                    "the guest has no udev that names cards by their address, so {} may be called \
                     otherwise and its configuration go unused",
                    list.join(", ")
                ),
                links.into_iter().flat_map(|link| link.evidence).collect(),
            ));
            return Ok(Vec::new());
        }
        Ok(links)
    }

    /// Who gives names. The guest's udev may be systemd's under another init too: it comes with
    /// links of its own.
    fn naming(&self) -> Result<Naming> {
        for folder in ["/usr/lib/systemd/network", "/lib/systemd/network"] {
            if self.files.directory(folder)?.is_some() {
                return Ok(Naming::Links);
            }
        }
        if self.system.init == Init::Systemd {
            return Ok(Naming::Links);
        }
        Ok(match self.files.directory(RULES_FOLDER)? {
            Some(_) => Naming::Rules,
            None => Naming::Nobody,
        })
    }

    /// The names as files of the root filesystem, where they are not there yet.
    pub(super) fn write_names(&mut self, links: &[Link]) -> Result<Vec<Edit>> {
        if links.is_empty() || self.naming()? == Naming::Links {
            return self.write_links(links);
        }
        let lines: String = links.iter().map(Link::rule).collect();
        let mut names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        let reason = format!(
            "the network configuration names {}, which the cards would no longer be called",
            names.join(", ")
        );
        let evidence = links
            .iter()
            .flat_map(|link| link.evidence.clone())
            .collect();
        let because = (reason, evidence);
        let Some(found) = self.files.file(RULES)? else {
            let place = self.place_of(RULES)?;
            let change = Change::Create { mode: 0o644 };
            let content = lines.into_bytes();
            return Ok(vec![Edit::of_new(RULES, place, content, change, because)]);
        };
        let before = self.files.read(RULES)?.unwrap_or_default();
        let mut after = before.clone();
        if !after.is_empty() && !after.ends_with(b"\n") {
            after.push(b'\n');
        }
        let next = after.iter().filter(|byte| **byte == b'\n').count() + 1;
        after.extend_from_slice(lines.as_bytes());
        let lines = (next..)
            .zip(lines.lines())
            .map(|(number, line)| LineChange {
                line: u32::try_from(number).unwrap_or(u32::MAX),
                before: String::new(),
                after: line.to_owned(),
            })
            .collect();
        let change = Change::Text { lines };
        Ok(vec![Edit::of_file(
            RULES,
            found,
            (&before, after),
            change,
            because,
        )])
    }

    fn write_links(&mut self, links: &[Link]) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        for link in links {
            let (path, content) = (link.path(), link.content());
            let reason = format!(
                "the network configuration names {}, which the card {} would no longer be called",
                link.name, link.mac
            );
            let because = (reason, link.evidence.clone());
            if let (Some(found), Some(before)) = (self.files.file(&path)?, self.files.read(&path)?)
            {
                if before != content {
                    let change = Change::Text { lines: Vec::new() };
                    edits.push(Edit::of_file(
                        &path,
                        found,
                        (&before, content),
                        change,
                        because,
                    ));
                }
                continue;
            }
            if self.names_inside && self.refusal(&path, How::Create).is_some() {
                self.notes.push(Note::new(
                    Severity::Warning,
                    "interface-name-in-initramfs",
                    format!(
                        "the initramfs alone keeps the name {}, because the filesystem cannot take \
                         {path}; create that file before the initramfs is built anew",
                        link.name
                    ),
                    link.evidence.clone(),
                ));
                continue;
            }
            let place = self.place_of(&path)?;
            let change = Change::Create { mode: 0o644 };
            edits.push(Edit::of_new(&path, place, content, change, because));
        }
        Ok(edits)
    }

    /// The filesystem that a new file at `path` comes to be on, and its path there.
    pub(super) fn place_of(&self, path: &str) -> Result<(FilesystemRef, String)> {
        let mut directory = path;
        // Ends because every round takes the last component off.
        while let Some((parent, _)) = directory.rsplit_once('/') {
            let asked = if parent.is_empty() { "/" } else { parent };
            if let Some(found) = self.files.directory(asked)? {
                let rest = path.get(parent.len()..).unwrap_or_default();
                let inner = found.path.trim_end_matches('/');
                return Ok((found.at, format!("{inner}{rest}")));
            }
            directory = parent;
        }
        Err(Error::internal("a guest without a root directory"))
    }
}

/// Whether `name` is what a network card is called, and not a bridge, bond, VLAN or the loopback.
fn is_card(name: &str) -> bool {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    // IFNAMSIZ
    plain
        && name.len() < 16
        && ["en", "eth", "em", "p"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        && name.bytes().any(|byte| byte.is_ascii_digit())
}

fn is_mac(mac: &str) -> bool {
    let mut parts = 0;
    let good = mac.split(':').all(|part| {
        parts += 1;
        part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    good && parts == 6
}

fn same_mac(one: Option<&str>, other: &str) -> bool {
    one.is_some_and(|one| one.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cards_are_named() {
        for name in ["ens192", "eth0", "enp0s3", "em1", "enx00aabbccddee"] {
            assert!(is_card(name), "{name}");
        }
        for name in [
            "lo",
            "br0",
            "bond0",
            "eth0.5",
            "eth0:1",
            "wg0",
            "en/../0",
            "ens1234567890123456",
        ] {
            assert!(!is_card(name), "{name}");
        }
    }

    #[test]
    fn an_address_is_six_pairs_of_hex_digits() {
        assert!(is_mac("00:0c:29:aB:cd:ef"));
        for mac in [
            "",
            "00:0c:29:ab:cd",
            "00:0c:29:ab:cd:e",
            "00:0c:29:ab:cd:eg",
        ] {
            assert!(!is_mac(mac), "{mac}");
        }
    }
}
