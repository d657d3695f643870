//! What a guest is to do once, when it starts for the first time on its new hardware: scripts, and
//! packages to be installed.
//!
//! Nothing of the guest's runs here: its own package manager installs the files that are put into it. A
//! runner in `/var/lib/rehost/first-boot` is started by what starts the guest's services (systemd,
//! OpenRC, System V scripts, which Upstart runs too, or BusyBox's `inittab`); it runs each script once, writes what they say to
//! `/var/log/rehost-first-boot.log`, and removes everything that was put there but for that.
//!
//! Left out on purpose, refused by name: guests whose first process is not known or has no folder or
//! table to be told in, and packages that the guest has no program for. What a package depends on is not
//! fetched; of a Debian one that needs more than the guest has, that is told.

mod deb;

use std::sync::Arc;

use rehost_block::{Error, Result};
use rehost_inspect::model::{Init, Place, Severity};

use super::text::{LineEdit, TextChanges};
use super::{Change, Edit, Need, Note, Planner};
use deb::Control;

/// Where the runner is, and what it runs.
const HOME: &str = "/var/lib/rehost/first-boot";

/// What starts the runner is called so.
const NAME: &str = "rehost-first-boot";

const REASON: &str = "it was asked for at the first boot";

const INITTAB: &str = "/etc/inittab";

/// insserv's makefile for startpar, which runs what stands there and of that what a runlevel links to.
/// A rule is enough to stand there: tried with startpar 0.65. Debian's rc takes the links alone where it
/// is empty.
const DEPENDENCIES: &str = "/etc/init.d/.depend.start";

/// A file that the guest is to run or install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstBootFile {
    /// Its name, without folders.
    pub name: String,
    /// The whole of it.
    pub content: Arc<Vec<u8>>,
}

/// What the guest is to do once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstBoot {
    /// Packages to install, in order, before the scripts run.
    pub packages: Vec<FirstBootFile>,
    /// QEMU's guest agent as a package: the first one, and its service is started.
    pub guest_agent: Option<FirstBootFile>,
    /// Scripts to run, in order. Each begins with `#!`.
    pub scripts: Vec<FirstBootFile>,
}

impl FirstBoot {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.guest_agent.is_none() && self.scripts.is_empty()
    }
}

/// A kind of package.
#[derive(PartialEq, Eq)]
struct Kind {
    name: &'static str,
    /// What installs it, and where it may be.
    programs: &'static [&'static str],
    /// Followed by the files: all at once, because they may need each other.
    command: &'static str,
    /// What to say when that failed.
    failed: &'static str,
}

const DEB: Kind = Kind {
    name: "deb",
    programs: &["/usr/bin/dpkg", "/bin/dpkg"],
    command: "DEBIAN_FRONTEND=noninteractive dpkg -i",
    failed: "\techo \"not everything was installed; what dpkg leaves half done:\"\n\tdpkg --audit\n",
};
const RPM: Kind = Kind {
    name: "rpm",
    programs: &["/usr/bin/rpm", "/bin/rpm"],
    command: "rpm -U --replacepkgs",
    failed: "\techo \"nothing of this was installed\"\n",
};
const APK: Kind = Kind {
    name: "apk",
    programs: &["/sbin/apk", "/usr/sbin/apk", "/usr/bin/apk"],
    command: "apk add --allow-untrusted --no-network",
    failed: "\techo \"nothing of this was installed\"\n",
};

/// Where dpkg keeps what is installed.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// The agent's port is there on the new hardware, and not in every machine that boots the guest before, a
/// proof's among them: Debian's package starts the agent, whose unit waits for the port, 90 s as systemd
/// comes. Not longer than a moment, until the next boot: tried with systemd 252.
const WAIT_SHORTLY: &str = r#"if [ -d /run/systemd/system ]; then
	port='/run/systemd/system/dev-virtio\x2dports-org.qemu.guest_agent.0.device.d'
	mkdir -p "$port" && printf '[Unit]\nJobRunningTimeoutSec=5\n' >"$port/rehost.conf"
fi
"#;

/// Starts the agent, whatever starts services; it is `qemu-ga` in RHEL 6. Debian's is started by the port.
const START_AGENT: &str = "\
#!/bin/sh
if command -v systemctl >/dev/null 2>&1; then
	systemctl enable qemu-guest-agent.service && systemctl --no-block start qemu-guest-agent.service
elif command -v rc-update >/dev/null 2>&1; then
	rc-update add qemu-guest-agent default && rc-service qemu-guest-agent start
elif command -v chkconfig >/dev/null 2>&1; then
	chkconfig qemu-ga on && service qemu-ga start
fi
";

impl FirstBootFile {
    /// What kind of package it is, by its first bytes.
    fn kind(&self) -> Result<&'static Kind> {
        let begins = |magic: &[u8]| self.content.starts_with(magic);
        if begins(b"!<arch>\ndebian-binary") {
            Ok(&DEB)
        } else if begins(&[0xed, 0xab, 0xee, 0xdb]) {
            Ok(&RPM)
        } else if begins(&[0x1f, 0x8b]) && self.name.ends_with(".apk") {
            Ok(&APK)
        } else {
            Err(Error::usage(format!(
                "{} is neither a deb nor an rpm nor an apk package",
                self.name
            ))
            .hint("give the package file of the guest's own distribution"))
        }
    }

    /// Its name with nothing in it that a shell takes for more.
    fn plain_name(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-+_".contains(c);
        let name: String = self
            .name
            .chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect();
        name.trim_start_matches('.').to_owned()
    }
}

impl Planner<'_> {
    /// The line that starts the runner in the table of BusyBox, or lets startpar do so.
    pub(super) fn start_by_line(&self, changes: &mut TextChanges) -> Result<()> {
        let path = match self.system.init {
            Init::Busybox => INITTAB,
            Init::Sysv | Init::Upstart => DEPENDENCIES,
            _ => return Ok(()),
        };
        let text = self.files.read(path)?.unwrap_or_default();
        if self.options.first_boot.is_empty() || text.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&text);
        let line = if path == INITTAB {
            format!("::once:/bin/sh {HOME}/run")
        } else {
            // Behind all others, as S99 is.
            let mut lines = text.lines();
            let targets = lines.find_map(|line| line.strip_prefix("TARGETS ="));
            format!("{NAME}: {}", targets.unwrap_or_default().trim())
        };
        if !text.lines().any(|own| own == line) {
            let last = u32::try_from(text.lines().count()).unwrap_or(u32::MAX);
            let edit = LineEdit::NewLine { text: line };
            changes.add(path, last, edit, (REASON.to_owned(), Need::FirstBoot));
        }
        Ok(())
    }

    /// The scripts, the packages, the runner, and what starts it.
    pub(super) fn prepare_first_boot(&mut self) -> Result<Vec<Edit>> {
        let wanted = &self.options.first_boot;
        let mut scripts: Vec<(String, Vec<u8>)> = Vec::new();
        let mut edits = Vec::new();
        let has_agent = self
            .system
            .tools
            .iter()
            .find(|tool| tool.name == "qemu-guest-agent");
        let agent = match (&wanted.guest_agent, has_agent) {
            (Some(_), Some(tool)) => {
                self.notes.push(Note::new(
                    Severity::Note,
                    "guest-agent-there",
                    "QEMU's guest agent is installed; the package is left out".to_owned(),
                    vec![tool.place.clone()],
                ));
                None
            }
            (agent, _) => agent.as_ref(),
        };
        let packages: Vec<&FirstBootFile> = agent.into_iter().chain(&wanted.packages).collect();
        let mut kinds: Vec<(&Kind, Vec<String>)> = Vec::new();
        for (number, package) in (1..).zip(&packages) {
            let kind = package.kind()?;
            self.installs(package, kind)?;
            // Two of different folders may have one name.
            let name = format!("{number:03}-{}", package.plain_name());
            let path = format!("{HOME}/packages/{name}");
            edits.extend(self.put(&path, 0o644, package.content.to_vec())?);
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, names)) => names.push(name),
                None => kinds.push((kind, vec![name])),
            }
        }
        self.note_missing(&packages)?;
        for (kind, names) in kinds {
            let first = agent.map_or("", |_| WAIT_SHORTLY);
            let names = names.join(" ");
            let script = format!(
                "#!/bin/sh\n{first}cd {HOME}/packages || exit\n{} {names} || {{\n\tended=$?\n{}\
                 \texit \"$ended\"\n}}\nrm -f {names}\n",
                kind.command, kind.failed
            );
            scripts.push((format!("install-{}", kind.name), script.into_bytes()));
        }
        if agent.is_some() {
            scripts.push(("start-guest-agent".to_owned(), START_AGENT.into()));
        }
        for script in &wanted.scripts {
            if !script.content.starts_with(b"#!") {
                return Err(
                    Error::usage(format!("{} does not say what runs it", script.name))
                        .hint("begin the script with a line like #!/bin/sh"),
                );
            }
            scripts.push((script.plain_name(), script.content.to_vec()));
        }
        if scripts.is_empty() {
            return Ok(edits);
        }
        for (number, (name, content)) in (1..).zip(scripts) {
            let path = format!("{HOME}/scripts/{number:03}-{name}");
            edits.extend(self.put(&path, 0o755, content)?);
        }
        let (starters, leftovers) = self.starters()?;
        edits.extend(starters);
        let runner = runner(&leftovers, self.system.init);
        edits.extend(self.put(&format!("{HOME}/run"), 0o755, runner.into_bytes())?);
        Ok(edits)
    }

    /// Tells what Debian packages need that the guest does not have.
    fn note_missing(&mut self, packages: &[&FirstBootFile]) -> Result<()> {
        let mut debs = Vec::new();
        for package in packages {
            if *package.kind()? == DEB {
                let control = Control::of(&package.content).ok_or_else(|| {
                    Error::corrupt(format!("{} is not a whole deb package", package.name))
                        .hint("fetch it again")
                })?;
                debs.push((&package.name, control));
            }
        }
        let Some(status) = self.files.read(DPKG_STATUS)?.filter(|_| !debs.is_empty()) else {
            return Ok(());
        };
        let status = String::from_utf8_lossy(&status);
        let (names, controls): (Vec<&String>, Vec<Control>) = debs.into_iter().unzip();
        for (name, control) in names.into_iter().zip(&controls) {
            let missing = control.missing(&status, &controls);
            if missing.is_empty() {
                continue;
            }
            self.notes.push(Note {
                fix: Some("give these packages too, each with --package".to_owned()),
                ..Note::new(
                    Severity::Warning,
                    "package-needs-more",
                    format!(
                        "{name} needs {}, which the guest does not have: dpkg will unpack it and not \
                         configure it",
                        missing.join(", ")
                    ),
                    vec![Place::file(DPKG_STATUS)],
                )
            });
        }
        Ok(())
    }

    /// The guest has the program that installs such packages.
    fn installs(&self, package: &FirstBootFile, kind: &Kind) -> Result<()> {
        for program in kind.programs {
            if self.files.file(program)?.is_some() {
                return Ok(());
            }
        }
        Err(Error::usage(format!(
            "{} is a package of the kind {}, and {} has no program that installs it",
            package.name, kind.name, self.system.os.pretty_name
        ))
        .hint("give the package file of the guest's own distribution"))
    }

    /// What starts the runner, and the paths that it is to remove afterwards.
    fn starters(&self) -> Result<(Vec<Edit>, Vec<String>)> {
        let mut edits = Vec::new();
        let mut paths = Vec::new();
        let mut add = |path: String, edit: Option<Edit>| {
            paths.push(path);
            edits.extend(edit);
        };
        let script = match self.system.init {
            Init::Systemd => {
                let unit = format!("/etc/systemd/system/{NAME}.service");
                let link = format!("/etc/systemd/system/multi-user.target.wants/{NAME}.service");
                let content = format!(
                    "[Unit]\nDescription=What rehost was asked to do at the first boot\n\
                     After=local-fs.target network.target\nBefore=getty-pre.target\n\
                     Wants=getty-pre.target\nConditionPathExists={HOME}/run\n\n\
                     [Service]\nType=oneshot\nExecStart=/bin/sh {HOME}/run\n\
                     StandardOutput=journal+console\nTimeoutStartSec=0\n\n\
                     [Install]\nWantedBy=multi-user.target\n"
                );
                add(link.clone(), self.new_link_once(&link, &unit)?);
                let edit = self.put(&unit, 0o644, content.into_bytes())?;
                add(unit, edit);
                return Ok((edits, paths));
            }
            Init::Busybox => {
                if self.files.read(INITTAB)?.unwrap_or_default().is_empty() {
                    return Err(cannot_start(&format!("there is nothing in {INITTAB}")));
                }
                return Ok((edits, paths));
            }
            Init::Unknown => {
                return Err(cannot_start(
                    "what starts the services of this guest is not known",
                ));
            }
            Init::Openrc => {
                let link = format!("/etc/runlevels/default/{NAME}");
                let script = format!("/etc/init.d/{NAME}");
                add(link.clone(), self.new_link_once(&link, &script)?);
                let content = format!(
                    "#!/sbin/openrc-run\ndescription=\"What rehost was asked to do at the first \
                     boot\"\n\ndepend() {{\n\tneed localmount\n\tafter bootmisc net\n}}\n\n\
                     start() {{\n\t/bin/sh {HOME}/run\n}}\n"
                );
                (script, content)
            }
            Init::Sysv | Init::Upstart => {
                let script = format!("/etc/init.d/{NAME}");
                let mut linked = false;
                for level in 2..6 {
                    for folder in [
                        format!("/etc/rc{level}.d"),
                        format!("/etc/rc.d/rc{level}.d"),
                        format!("/etc/init.d/rc{level}.d"),
                    ] {
                        if self.files.directory(&folder)?.is_some() {
                            let link = format!("{folder}/S99{NAME}");
                            add(link.clone(), self.new_link_once(&link, &script)?);
                            linked = true;
                            break;
                        }
                    }
                }
                if !linked {
                    return Err(cannot_start("there is no folder of a runlevel"));
                }
                let content = format!(
                    "#!/bin/sh\n# chkconfig: 2345 99 01\n### BEGIN INIT INFO\n# Provides: {NAME}\n\
                     # Required-Start: $local_fs $network\n# Required-Stop:\n\
                     # Default-Start: 2 3 4 5\n# Default-Stop:\n\
                     # Short-Description: What rehost was asked to do at the first boot\n\
                     ### END INIT INFO\n[ \"$1\" = start ] || exit 0\n/bin/sh {HOME}/run\n"
                );
                (script, content)
            }
        };
        let (path, content) = script;
        let edit = self.put(&path, 0o755, content.into_bytes())?;
        add(path, edit);
        Ok((edits, paths))
    }

    fn new_link_once(&self, path: &str, target: &str) -> Result<Option<Edit>> {
        if self.files.kind(path)?.is_some() {
            return Ok(None);
        }
        let change = Change::Link {
            target: target.to_owned(),
        };
        let because = (REASON.to_owned(), Vec::new());
        let (place, content) = (self.place_of(path)?, target.as_bytes().to_vec());
        let edit = Edit::of_new(path, place, content, change, because);
        Ok(Some(edit.needed(Need::FirstBoot)))
    }

    /// The file at `path` with this content; nothing where it has it.
    fn put(&self, path: &str, mode: u16, content: Vec<u8>) -> Result<Option<Edit>> {
        let because = (REASON.to_owned(), Vec::<Place>::new());
        let Some(found) = self.files.file(path)? else {
            let place = self.place_of(path)?;
            let change = Change::Create { mode };
            let edit = Edit::of_new(path, place, content, change, because);
            return Ok(Some(edit.needed(Need::FirstBoot)));
        };
        let before = self.files.read(path)?.unwrap_or_default();
        if before == content {
            return Ok(None);
        }
        let change = Change::Text { lines: Vec::new() };
        let edit = Edit::of_file(path, found, (&before, content), change, because);
        Ok(Some(edit.needed(Need::FirstBoot)))
    }
}

fn cannot_start(why: &str) -> Error {
    Error::unsupported(format!("{why}, so nothing can be run at the first boot"))
        .hint("leave out --first-boot, --package and --guest-agent")
}

/// Runs every script once. One that restarts the machine is not run again: it is set aside first.
///
/// What they say goes to the log and is read back from there: a pipe would stay open, and the boot
/// would wait, for as long as anything lives that a script left running.
fn runner(leftovers: &[String], init: Init) -> String {
    let mut text = format!(
        "#!/bin/sh\n# Written by rehost: runs what was asked for at the first boot, once, and goes.\n\
         home={HOME}\nlog=/var/log/rehost-first-boot.log\nmkdir -p \"$home/run.d\"\n\
         {{ mkdir -p \"${{log%/*}}\" && touch \"$log\"; }} 2>/dev/null || {{\n\
         \tlog=$home/log\n\ttouch \"$log\"\n}}\n\
         # Reading goes on where it ended, so each cat says what is new.\n\
         exec 3<\"$log\"\ncat <&3 >/dev/null\n\
         say() {{\n\techo \"rehost first boot: $*\" >>\"$log\"\n\tcat <&3\n}}\n\
         for script in \"$home\"/scripts/*; do\n\
         \t[ -f \"$script\" ] || continue\n\
         \tname=${{script##*/}}\n\
         \tmv \"$script\" \"$home/run.d/$name\" || continue\n\
         \tsay \"$name\"\n\
         \t\"$home/run.d/$name\" </dev/null >>\"$log\" 2>&1 3<&-\n\
         \tsay \"$name ended with $?\"\n\
         \trm -f \"$home/run.d/$name\"\n\
         done\n"
    );
    for path in leftovers {
        text.push_str(&format!("rm -f {path}\n"));
    }
    match init {
        Init::Busybox => {
            text.push_str(&format!("sed -i '\\|{HOME}/run|d' {INITTAB}\n"));
        }
        Init::Sysv | Init::Upstart => text.push_str(&format!(
            "[ ! -s {DEPENDENCIES} ] || sed -i '/^{NAME}:/d' {DEPENDENCIES}\n"
        )),
        _ => {}
    }
    text.push_str("cd /\nrm -rf \"$home\"\nrmdir \"${home%/*}\" 2>/dev/null\nexit 0\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> FirstBootFile {
        FirstBootFile {
            name: name.to_owned(),
            content: Arc::new(content.to_vec()),
        }
    }

    #[test]
    fn a_package_is_told_by_its_first_bytes() {
        let kind = |name: &str, content: &[u8]| file(name, content).kind().map(|kind| kind.name);
        assert_eq!(kind("x", b"!<arch>\ndebian-binary   0").unwrap(), "deb");
        assert_eq!(kind("x.deb", &[0xed, 0xab, 0xee, 0xdb, 3]).unwrap(), "rpm");
        assert_eq!(kind("x.apk", &[0x1f, 0x8b, 8]).unwrap(), "apk");
        for (name, content) in [("x.deb", &b"PK"[..]), ("x.tar.gz", &[0x1f, 0x8b][..])] {
            assert!(kind(name, content).is_err(), "{name}");
        }
    }

    #[test]
    fn names_hold_nothing_for_a_shell() {
        assert_eq!(file("a b$(x).sh", b"").plain_name(), "a_b__x_.sh");
        assert_eq!(file("..", b"").plain_name(), "");
    }
}
