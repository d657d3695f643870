//! Guest tools of the old hypervisor that would get in the way are kept from starting.
//!
//! Packaged tools (open-vm-tools, the Hyper-V daemons, xe-daemon, qemu-guest-agent) ask which machine
//! they run on before they start, and stay asleep elsewhere: they are left alone, which is also right
//! for the way back. Those that vendors install themselves do not ask. Nothing is uninstalled.

use rehost_block::Result;
use rehost_fs::FileKind;
use rehost_inspect::model::{Init, Place, ToolFound};

use super::{Change, Edit, Planner};

/// One kind of tools: its name in the inspection, and the services that it installs.
struct Stubborn {
    name: &'static str,
    services: &'static [&'static str],
}

const STUBBORN: &[Stubborn] = &[
    Stubborn {
        name: "VMware Tools (tarball)",
        services: &[
            "vmware-tools",
            "vmware-tools-thinprint",
            "vmware-tools-vgauth",
        ],
    },
    Stubborn {
        name: "VirtualBox Guest Additions",
        services: &["vboxadd", "vboxadd-service", "vboxadd-x11"],
    },
    Stubborn {
        name: "Parallels Tools",
        services: &["prltoolsd", "prl-x11"],
    },
];

const UNITS: &str = "/etc/systemd/system";

impl Planner<'_> {
    /// The edits that keep such tools from starting.
    pub(super) fn disable_tools(&mut self) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        let system = self.system;
        for tool in &system.tools {
            if self.target.hypervisor == Some(tool.hypervisor) {
                continue;
            }
            let Some(stubborn) = STUBBORN.iter().find(|one| one.name == tool.name) else {
                continue;
            };
            for service in stubborn.services {
                if system.init == Init::Systemd {
                    edits.extend(self.mask(tool, service)?);
                } else {
                    edits.extend(self.unlink(tool, service)?);
                }
                edits.extend(self.override_upstart(tool, service)?);
            }
        }
        Ok(edits)
    }

    /// systemd: a unit, or an init script that becomes one, is masked (`systemctl mask`). An
    /// administrator's own unit of that name is taken out of the targets that want it.
    fn mask(&mut self, tool: &ToolFound, service: &str) -> Result<Vec<Edit>> {
        let unit = format!("{service}.service");
        let own = format!("{UNITS}/{unit}");
        if self.files.kind(&own)?.is_none() {
            let installed = [
                format!("/usr/lib/systemd/system/{unit}"),
                format!("/lib/systemd/system/{unit}"),
                format!("/etc/init.d/{service}"),
            ];
            for path in installed {
                if self.files.kind(&path)?.is_some() {
                    return Ok(vec![self.new_link(
                        &own,
                        "/dev/null",
                        because(tool, &path),
                    )?]);
                }
            }
            return Ok(Vec::new());
        }
        let mut edits = Vec::new();
        for folder in self.files.names(UNITS)? {
            let path = format!("{UNITS}/{folder}/{unit}");
            if folder.ends_with(".wants") {
                edits.extend(self.removed_link(&path, because(tool, &own))?);
            }
        }
        Ok(edits)
    }

    /// System V: the links that start it go. Red Hat's and Debian's folders are the same ones.
    fn unlink(&mut self, tool: &ToolFound, service: &str) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        for level in 2..6 {
            for folder in [
                format!("/etc/rc{level}.d"),
                format!("/etc/init.d/rc{level}.d"),
            ] {
                // One of them may be a link to the other's parent.
                if self.files.kind(&folder)? != Some(FileKind::Directory) {
                    continue;
                }
                for name in self.files.names(&folder)? {
                    let starts = name
                        .strip_prefix('S')
                        .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
                    if starts == Some(service) {
                        let path = format!("{folder}/{name}");
                        edits.extend(self.removed_link(&path, because(tool, &path))?);
                    }
                }
            }
        }
        Ok(edits)
    }

    /// Upstart: `init(5)`, "manual" in an override file.
    fn override_upstart(&mut self, tool: &ToolFound, service: &str) -> Result<Option<Edit>> {
        let job = format!("/etc/init/{service}.conf");
        let path = format!("/etc/init/{service}.override");
        if self.files.kind(&job)?.is_none() || self.files.kind(&path)?.is_some() {
            return Ok(None);
        }
        let change = Change::Create { mode: 0o644 };
        let place = self.place_of(&path)?;
        let content = b"manual\n".to_vec();
        let because = because(tool, &job);
        Ok(Some(Edit::of_new(&path, place, content, change, because)))
    }

    /// A symbolic link that is to be made.
    fn new_link(&self, path: &str, target: &str, because: (String, Vec<Place>)) -> Result<Edit> {
        let change = Change::Link {
            target: target.to_owned(),
        };
        let content = target.as_bytes().to_vec();
        Ok(Edit::of_new(
            path,
            self.place_of(path)?,
            content,
            change,
            because,
        ))
    }

    /// The symbolic link at `path`, where there is one, is to go.
    fn removed_link(&self, path: &str, because: (String, Vec<Place>)) -> Result<Option<Edit>> {
        let Some(target) = self.files.link(path)? else {
            return Ok(None);
        };
        let (at, inner) = self.place_of(path)?;
        let found = crate::guest::FoundFile {
            at,
            path: inner,
            plain: false,
        };
        Ok(Some(Edit::of_removed(
            path,
            found,
            target.as_bytes(),
            because,
        )))
    }
}

fn because(tool: &ToolFound, seen: &str) -> (String, Vec<Place>) {
    let reason = format!(
        "{} would start outside {} too, and is not needed there",
        tool.name, tool.hypervisor
    );
    (reason, vec![tool.place.clone(), Place::file(seen)])
}
