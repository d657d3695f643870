//! Which operating system a filesystem holds: release files, init, architecture.
//!
//! os-release(5), and the release files that distributions had before it.

use rehost_block::{Fields, Result};
use rehost_fs::FileSystem;
use rehost_fs::path::{self, LastLink};

use crate::model::{Architecture, Family, Init, OsRelease, Place};
use crate::reader::Reader;

/// Most bytes of a program that are read to see its architecture: an ELF header has 64.
const ELF_START: usize = 64;

/// Which `ID` or `ID_LIKE` belongs to which family.
const FAMILIES: [(&str, Family); 24] = [
    ("debian", Family::Debian),
    ("ubuntu", Family::Debian),
    ("linuxmint", Family::Debian),
    ("raspbian", Family::Debian),
    ("kali", Family::Debian),
    ("devuan", Family::Debian),
    ("rhel", Family::RedHat),
    ("fedora", Family::RedHat),
    ("centos", Family::RedHat),
    ("rocky", Family::RedHat),
    ("almalinux", Family::RedHat),
    ("ol", Family::RedHat),
    ("amzn", Family::RedHat),
    ("scientific", Family::RedHat),
    ("redhat", Family::RedHat),
    ("photon", Family::RedHat),
    ("sles", Family::Suse),
    ("suse", Family::Suse),
    ("opensuse", Family::Suse),
    ("opensuse-leap", Family::Suse),
    ("alpine", Family::Alpine),
    ("arch", Family::Arch),
    ("manjaro", Family::Arch),
    ("archlinux", Family::Arch),
];

/// Release files from before os-release: path, identifier, and the words before the version.
const OLD_RELEASES: [(&str, &str); 6] = [
    ("/etc/redhat-release", "rhel"),
    ("/etc/SuSE-release", "suse"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/arch-release", "arch"),
    ("/etc/lsb-release", "linux"),
    ("/etc/debian_version", "debian"),
];

/// Whether a filesystem looks like the root of a Linux system: it has `/etc` with a release file
/// or an fstab, and a first process. Links are not followed: `/usr` may be another filesystem.
pub(crate) fn is_root(fs: &dyn FileSystem) -> Result<bool> {
    let any = |paths: &[&str]| -> Result<bool> {
        for path in paths {
            if path::find(fs, path.as_bytes(), LastLink::Keep)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let described = any(&["/etc/os-release", "/usr/lib/os-release", "/etc/fstab"])?
        || any(&OLD_RELEASES.map(|(path, _)| path))?;
    // `sbin` itself may be a link to a separate /usr, through which nothing is found here.
    Ok(described && any(&["/sbin/init", "/usr/lib/systemd", "/lib/systemd", "/sbin"])?)
}

/// The release; a system that does not say is `unknown`.
pub(crate) fn release(reader: &Reader<'_>) -> OsRelease {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        let Some(text) = reader.text(path) else {
            continue;
        };
        let value = |key: &str| {
            let found = text.assigned(key)?.value;
            (!found.is_empty()).then_some(found)
        };
        let id = value("ID").unwrap_or_else(|| "linux".to_owned());
        let id_like: Vec<String> = value("ID_LIKE")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let name = value("PRETTY_NAME").or_else(|| value("NAME"));
        return OsRelease {
            family: family(&id, &id_like),
            version_id: value("VERSION_ID"),
            pretty_name: name.unwrap_or_else(|| id.clone()),
            id,
            id_like,
            place: Place::file(path),
        };
    }
    OLD_RELEASES
        .into_iter()
        .find_map(|(path, id)| old_release(reader, path, id))
        .unwrap_or_else(|| OsRelease {
            id: "unknown".to_owned(),
            version_id: None,
            pretty_name: "unknown Linux".to_owned(),
            id_like: Vec::new(),
            family: Family::Unknown,
            place: Place::file("/etc"),
        })
}

fn family(id: &str, id_like: &[String]) -> Family {
    std::iter::once(id)
        .chain(id_like.iter().map(String::as_str))
        .find_map(|name| {
            let row = FAMILIES.iter().find(|(known, _)| *known == name)?;
            Some(row.1)
        })
        .unwrap_or(Family::Unknown)
}

fn old_release(reader: &Reader<'_>, path: &str, id: &str) -> Option<OsRelease> {
    let text = reader.text(path)?;
    let first = text.content.lines().next().unwrap_or_default().trim();
    let (id, version, name) = match id {
        "debian" => (id, Some(first.to_owned()), format!("Debian {first}")),
        "alpine" => (id, Some(first.to_owned()), format!("Alpine Linux {first}")),
        "linux" => {
            let value = |key: &str| text.assigned(key).map(|found| found.value);
            let id = value("DISTRIB_ID")?.to_lowercase();
            let name = value("DISTRIB_DESCRIPTION").unwrap_or_else(|| id.clone());
            return Some(OsRelease {
                family: family(&id, &[]),
                id,
                version_id: value("DISTRIB_RELEASE"),
                pretty_name: name,
                id_like: Vec::new(),
                place: Place::file(path),
            });
        }
        _ => {
            // "CentOS release 6.10 (Final)": the first word with a digit is the version.
            let version = first
                .split_whitespace()
                .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
            let id = match first.split_whitespace().next() {
                Some("CentOS") => "centos",
                Some("Fedora") => "fedora",
                _ => id,
            };
            (id, version.map(str::to_owned), first.to_owned())
        }
    };
    Some(OsRelease {
        id: id.to_owned(),
        version_id: version,
        pretty_name: name,
        id_like: Vec::new(),
        family: family(id, &[]),
        place: Place::file(path),
    })
}

/// What the system calls itself.
pub(crate) fn hostname(reader: &Reader<'_>) -> Option<String> {
    let plain = reader.text("/etc/hostname").and_then(|text| {
        let (_, line) = text.statements().next()?;
        Some(line.to_owned())
    });
    plain.or_else(|| {
        let text = reader.text("/etc/sysconfig/network")?;
        Some(text.assigned("HOSTNAME")?.value)
    })
}

/// The architecture of the first process, or of another program every system has.
pub(crate) fn architecture(reader: &Reader<'_>) -> Option<Architecture> {
    [
        "/sbin/init",
        "/usr/lib/systemd/systemd",
        "/lib/systemd/systemd",
        "/bin/sh",
        "/usr/bin/ls",
    ]
    .iter()
    .find_map(|path| machine(&reader.start(path, ELF_START)?))
}

/// `e_machine` of an ELF file (System V ABI, "ELF Header").
fn machine(start: &[u8]) -> Option<Architecture> {
    let fields = Fields::new(start, "ELF header", 0);
    if fields.bytes(0, 4).ok()? != b"\x7fELF" {
        return None;
    }
    let machine = match fields.u8(5).ok()? {
        1 => fields.u16_le(18).ok()?,
        _ => fields.u16_be(18).ok()?,
    };
    Some(match machine {
        3 => Architecture::X86,
        62 => Architecture::X86_64,
        183 => Architecture::Aarch64,
        other => Architecture::Other(other),
    })
}

/// Which program is the first process.
pub(crate) fn init(reader: &Reader<'_>) -> Init {
    let target = reader.canonical("/sbin/init").unwrap_or_default();
    if target.ends_with("/systemd") {
        Init::Systemd
    } else if target.ends_with("/openrc-init") {
        Init::Openrc
    } else if target.ends_with("/busybox") && !reader.exists("/sbin/openrc") {
        Init::Busybox
    } else if target.contains("upstart") || reader.exists("/etc/init/rc-sysinit.conf") {
        Init::Upstart
    } else if reader.exists("/sbin/openrc") && !target.is_empty() {
        Init::Openrc
    } else if reader.exists("/etc/inittab") && !target.is_empty() {
        Init::Sysv
    } else if reader.exists("/usr/lib/systemd/systemd") || reader.exists("/lib/systemd/systemd") {
        Init::Systemd
    } else {
        Init::Unknown
    }
}
