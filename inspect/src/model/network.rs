//! Network interfaces as configured.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::Place;

/// A network interface that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Interface {
    /// Its name in the guest; `None` where it is matched by something else.
    pub name: Option<String>,
    /// What it is.
    pub kind: InterfaceKind,
    /// The MAC address it is matched by.
    pub mac: Option<String>,
    /// How it gets its address.
    pub method: AddressMethod,
    /// Addresses with prefix length where given.
    pub addresses: Vec<String>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Name servers.
    pub nameservers: Vec<String>,
    /// The interfaces that it is made of: members of a bond, team or bridge, the one below a VLAN.
    pub uses: Vec<String>,
    /// The bond, team or bridge that it says it is a member of.
    pub member_of: Option<String>,
    /// Number of a VLAN.
    pub vlan: Option<u16>,
    /// Which tool reads the file.
    pub configured_by: NetworkTool,
    /// Where it stands.
    pub place: Place,
}

/// What an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceKind {
    /// A network card.
    Ethernet,
    /// Several cards as one (`bonding`).
    Bond,
    /// Several cards as one (`teamd`).
    Team,
    /// A switch between others.
    Bridge,
    /// One network of several on a cable (802.1Q).
    Vlan,
    /// A dummy, macvlan or another device that exists only in software.
    Virtual,
}

impl InterfaceKind {
    /// What a name alone tells: `bond0`, `br0`, `eth0.100`, `vlan5`; everything else is a card.
    pub(crate) fn of_name(name: &str) -> Self {
        let numbered = |prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if numbered("bond") {
            Self::Bond
        } else if numbered("team") {
            Self::Team
        } else if numbered("br") || numbered("virbr") || numbered("vmbr") {
            Self::Bridge
        } else if numbered("vlan") || vlan_of(name).is_some() {
            Self::Vlan
        } else if numbered("dummy") || numbered("tun") || numbered("tap") || numbered("wg") {
            Self::Virtual
        } else {
            Self::Ethernet
        }
    }
}

/// The interface below a VLAN and its number, from the usual name: `eth0.100`.
pub(crate) fn vlan_of(name: &str) -> Option<(&str, u16)> {
    let (below, number) = name.rsplit_once('.')?;
    let number = number.parse().ok().filter(|number| *number < 4096)?;
    (!below.is_empty()).then_some((below, number))
}

impl fmt::Display for InterfaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethernet => "ethernet",
            Self::Bond => "bond",
            Self::Team => "team",
            Self::Bridge => "bridge",
            Self::Vlan => "vlan",
            Self::Virtual => "virtual",
        })
    }
}

/// How an interface gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressMethod {
    /// DHCP (or automatic).
    Dhcp,
    /// Written in the file.
    Static,
    /// None: the interface is up without one, or is part of another.
    None,
}

/// The tool that reads a network configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkTool {
    /// `/etc/network/interfaces`.
    Ifupdown,
    /// `/etc/netplan`.
    Netplan,
    /// NetworkManager keyfiles.
    NetworkManager,
    /// `/etc/systemd/network`.
    SystemdNetworkd,
    /// `ifcfg-*` of Red Hat, and of SUSE before wicked.
    Ifcfg,
    /// `ifcfg-*` of SUSE, read by wicked.
    Wicked,
    /// `/etc/udev/rules.d/*-persistent-net.rules`: a name for a MAC, no addresses.
    UdevRule,
    /// A systemd `.link` file: a name for a MAC, no addresses.
    SystemdLink,
}

impl fmt::Display for NetworkTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ifupdown => "ifupdown",
            Self::Netplan => "netplan",
            Self::NetworkManager => "NetworkManager",
            Self::SystemdNetworkd => "systemd-networkd",
            Self::Ifcfg => "ifcfg",
            Self::Wicked => "wicked",
            Self::UdevRule => "udev rule",
            Self::SystemdLink => "systemd .link",
        })
    }
}
