//! Network interfaces as configured.

use std::fmt;

use serde::Serialize;

use super::Place;

/// A network interface that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name in the guest; `None` where it is matched by something else.
    pub name: Option<String>,
    /// The MAC address it is matched by.
    pub mac: Option<String>,
    /// How it gets its address.
    pub method: AddressMethod,
    /// Addresses with prefix length where given.
    pub addresses: Vec<String>,
    /// Default gateways.
    pub gateways: Vec<String>,
    /// Which tool reads the file.
    pub configured_by: NetworkTool,
    /// Where it stands.
    pub place: Place,
}

/// How an interface gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
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
    /// `ifcfg-*` of Red Hat and SUSE.
    Ifcfg,
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
            Self::UdevRule => "udev rule",
            Self::SystemdLink => "systemd .link",
        })
    }
}
