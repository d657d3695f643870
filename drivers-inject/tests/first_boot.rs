//! What a guest is asked to do at its first boot: where it is put for each kind of init, and what the
//! runner does, run here in a folder by the host's own shells.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rehost_inject::plan::{Change, EditPlan, FirstBoot, FirstBootFile, PlanOptions, plan};
use rehost_inject::target::KVM;
use rehost_inspect::model::{Init, Place, ToolFound};
use support::guest::{Folder, carry_out, inspection, system};
use support::have;

const HOME: &str = "/var/lib/rehost/first-boot";

fn file(name: &str, content: &[u8]) -> FirstBootFile {
    FirstBootFile {
        name: name.to_owned(),
        content: Arc::new(content.to_vec()),
    }
}

/// A Debian package of nothing but its control file, and what makes it another.
fn deb(control: &str, other: &str) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..9].copy_from_slice(b"./control");
    header[124..135].copy_from_slice(format!("{:011o}", control.len()).as_bytes());
    let mut tar = header.to_vec();
    tar.extend(control.as_bytes());
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    let mut package = b"!<arch>\n".to_vec();
    let members = [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar", &tar),
        ("data.tar", other.as_bytes()),
    ];
    for (name, content) in members {
        let len = content.len();
        package.extend(format!("{name:<16}{0:<12}{0:<6}{0:<6}100644  {len:<10}`\n", 0).bytes());
        package.extend(content);
    }
    package
}

fn scripts(scripts: &[(&str, &str)]) -> PlanOptions {
    let scripts = scripts
        .iter()
        .map(|(name, text)| file(name, text.as_bytes()));
    PlanOptions {
        first_boot: FirstBoot {
            scripts: scripts.collect(),
            ..FirstBoot::default()
        },
        ..PlanOptions::default()
    }
}

fn guest() -> (tempfile::TempDir, Folder) {
    let folder = tempfile::tempdir().unwrap();
    let files = Folder(folder.path().to_owned());
    files.put("/var/log/boot", "");
    files.put("/etc/hostname", "guest\n");
    (folder, files)
}

fn planned(init: Init, files: &Folder, options: &PlanOptions) -> EditPlan {
    let mut guest = system(Vec::new());
    guest.init = init;
    plan(&inspection(guest), files, &KVM, options).unwrap()
}

fn paths(plan: &EditPlan) -> Vec<&str> {
    plan.edits.iter().map(|edit| edit.path.as_str()).collect()
}

#[test]
fn systemd_starts_the_runner_and_a_second_plan_is_empty() {
    let (_keep, files) = guest();
    let options = scripts(&[("hello.sh", "#!/bin/sh\necho hello\n")]);
    let first = planned(Init::Systemd, &files, &options);
    let unit = "/etc/systemd/system/rehost-first-boot.service";
    let link = "/etc/systemd/system/multi-user.target.wants/rehost-first-boot.service";
    let script = format!("{HOME}/scripts/001-hello.sh");
    let runner = format!("{HOME}/run");
    assert_eq!(paths(&first), [&script, link, unit, &runner]);
    let of = |path: &str| first.edits.iter().find(|edit| edit.path == path).unwrap();
    assert_eq!(of(&script).change, Change::Create { mode: 0o755 });
    assert!(matches!(&of(link).change, Change::Link { target } if target == unit));
    let text = String::from_utf8_lossy(&of(unit).content).into_owned();
    assert!(
        text.contains(&format!("ExecStart=/bin/sh {runner}\n")),
        "{text}"
    );
    carry_out(&first, &files);
    let again = planned(Init::Systemd, &files, &options);
    assert!(again.is_empty(), "{again}");
}

#[test]
fn the_units_are_what_systemd_takes() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let (_keep, files) = guest();
    let options = scripts(&[("hello.sh", "#!/bin/sh\necho hello\n")]);
    let plan = planned(Init::Systemd, &files, &options);
    let unit = plan
        .edits
        .iter()
        .find(|edit| edit.path.ends_with("system/rehost-first-boot.service"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rehost-first-boot.service");
    fs::write(&path, unit.unwrap().content.as_slice()).unwrap();
    let path = path.to_str().unwrap();
    let verified = support::run("systemd-analyze", &["verify", "--man=no", path], b"");
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success(), "{}: {said}", verified.status);
    assert!(!said.contains("rehost-first-boot"), "{said}");
}

#[test]
fn openrc_and_system_v_get_a_script_of_their_own_and_busybox_a_line() {
    let (_keep, files) = guest();
    let options = scripts(&[("a", "#!/bin/sh\n")]);
    let plan = planned(Init::Openrc, &files, &options);
    assert!(paths(&plan).contains(&"/etc/runlevels/default/rehost-first-boot"));
    assert!(paths(&plan).contains(&"/etc/init.d/rehost-first-boot"));

    for level in 2..6 {
        files.put(&format!("/etc/rc{level}.d/README"), "");
    }
    for init in [Init::Sysv, Init::Upstart] {
        let plan = planned(init, &files, &options);
        for level in 2..6 {
            let link = format!("/etc/rc{level}.d/S99rehost-first-boot");
            assert!(paths(&plan).contains(&link.as_str()), "{plan}");
        }
    }

    files.put("/etc/inittab", "::sysinit:/etc/init.d/rcS\n");
    let plan = planned(Init::Busybox, &files, &options);
    let table = plan.edits.iter().find(|edit| edit.path == "/etc/inittab");
    let text = String::from_utf8_lossy(&table.unwrap().content).into_owned();
    assert_eq!(
        text,
        format!("::sysinit:/etc/init.d/rcS\n::once:/bin/sh {HOME}/run\n")
    );
}

#[test]
fn startpar_finds_a_rule_and_the_runner_takes_it_away() {
    let (keep, files) = guest();
    let before = "TARGETS = rsyslog cron\nINTERACTIVE =\ncron: rsyslog\n";
    let table = "/etc/init.d/.depend.start";
    files.put("/etc/rc2.d/README", "");
    files.put(table, before);
    let options = scripts(&[("a", "#!/bin/sh\n")]);
    let first = planned(Init::Sysv, &files, &options);
    let edit = first.edits.iter().find(|edit| edit.path == table).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&edit.content),
        format!("{before}rehost-first-boot: rsyslog cron\n")
    );
    carry_out(&first, &files);
    let again = planned(Init::Sysv, &files, &options);
    assert!(again.is_empty(), "{again}");

    let root = keep.path();
    moved(root, root);
    let runner = root.join(HOME.trim_start_matches('/')).join("run");
    let ran = support::run("sh", &[runner.to_str().unwrap()], b"");
    assert!(ran.status.success(), "{ran:?}");
    let left = fs::read_to_string(root.join(table.trim_start_matches('/'))).unwrap();
    assert_eq!(left, before);
    assert!(!root.join("etc/init.d/rehost-first-boot").exists());

    // rc follows the links alone where insserv wrote nothing.
    files.put(table, "");
    let plan = planned(Init::Sysv, &files, &options);
    assert!(!paths(&plan).contains(&table), "{plan}");
}

#[test]
fn what_cannot_be_started_or_installed_is_refused_by_name() {
    let (_keep, files) = guest();
    let refused = |init: Init, first_boot: FirstBoot| {
        let mut guest = system(Vec::new());
        guest.init = init;
        let options = PlanOptions {
            first_boot,
            ..PlanOptions::default()
        };
        let error = plan(&inspection(guest), &files, &KVM, &options).unwrap_err();
        error.to_string()
    };
    let error = refused(
        Init::Systemd,
        FirstBoot {
            scripts: vec![file("plain", b"echo\n")],
            ..FirstBoot::default()
        },
    );
    assert!(error.contains("plain does not say what runs it"), "{error}");
    let error = refused(
        Init::Unknown,
        FirstBoot {
            scripts: vec![file("x", b"#!/bin/sh\n")],
            ..FirstBoot::default()
        },
    );
    assert!(error.contains("not known"), "{error}");
    let script = || FirstBoot {
        scripts: vec![file("x", b"#!/bin/sh\n")],
        ..FirstBoot::default()
    };
    for init in [Init::Sysv, Init::Upstart] {
        let error = refused(init, script());
        assert!(error.contains("no folder of a runlevel"), "{error}");
    }
    let error = refused(Init::Busybox, script());
    assert!(error.contains("nothing in /etc/inittab"), "{error}");
    files.put("/etc/inittab", "");
    let error = refused(Init::Busybox, script());
    assert!(error.contains("nothing in /etc/inittab"), "{error}");
    files.put("/usr/bin/rpm", "");
    let error = refused(
        Init::Systemd,
        FirstBoot {
            packages: vec![file("agent.deb", &deb("Package: a\n", ""))],
            ..FirstBoot::default()
        },
    );
    assert!(
        error.contains("agent.deb is a package of the kind deb"),
        "{error}"
    );
}

#[test]
fn an_agent_that_is_there_already_is_left_out() {
    let (_keep, files) = guest();
    let mut guest = system(Vec::new());
    guest.init = Init::Systemd;
    guest.tools.push(ToolFound {
        name: "qemu-guest-agent",
        hypervisor: "KVM",
        sleeps: true,
        version: None,
        place: Place::file("/usr/sbin/qemu-ga"),
    });
    let options = PlanOptions {
        first_boot: FirstBoot {
            guest_agent: Some(file("agent.deb", &deb("Package: a\n", ""))),
            ..FirstBoot::default()
        },
        ..PlanOptions::default()
    };
    let plan = plan(&inspection(guest), &files, &KVM, &options).unwrap();
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.notes[0].id, "guest-agent-there");
}

/// The files of a guest with every absolute path of theirs moved below `root`, as the guest sees them
/// from inside, so that the host's shell can run them.
fn moved(folder: &Path, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap();
        if kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            moved(&path, root);
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let mut text = text;
        for own in [
            "/var/lib/rehost",
            "/var/log/rehost",
            "/etc/systemd",
            "/run/systemd",
            "/etc/init.d",
            "/etc/rc2.d",
        ] {
            text = text.replace(own, &format!("{}{own}", root.display()));
        }
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A folder of programs that say how they were called; the host's own are not to be run.
fn stubs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "dpkg",
            "echo \"dpkg $*, $DEBIAN_FRONTEND\"\n\
             [ \"$1\" = --audit ] || ! grep -q broken $2 $3 $4 || exit 2\n",
        ),
        ("systemctl", "echo \"systemctl $*\"\n"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

#[test]
fn the_runner_runs_each_script_once_in_every_shell_and_leaves_its_log_alone() {
    for (shell, broken) in [
        (&["dash"][..], ""),
        (&["bash", "--posix"], "broken"),
        (&["busybox", "sh"], "broken"),
    ] {
        if !have(&shell[..1]) {
            continue;
        }
        let (keep, files) = guest();
        let root = keep.path();
        files.put("/usr/bin/dpkg", "");
        let mut options = scripts(&[
            ("one.sh", "#!/bin/sh\necho one; exit 3\n"),
            ("t w o", "#!/bin/sh\necho two\n"),
        ]);
        options.first_boot.guest_agent = Some(file("agent.deb", &deb("Package: a\n", "")));
        options.first_boot.packages = vec![
            file("x.deb", &deb("Package: x\n", "")),
            file("x.deb", &deb("Package: y\n", broken)),
        ];
        let plan = planned(Init::Systemd, &files, &options);
        carry_out(&plan, &files);
        moved(root, root);
        let runner = root.join(HOME.trim_start_matches('/')).join("run");
        let stubs = stubs();
        let path = std::env::var("PATH").unwrap();
        let ran = Command::new(shell[0])
            .args(&shell[1..])
            .arg(&runner)
            .env("PATH", format!("{}:{path}", stubs.path().display()))
            .env_remove("DEBIAN_FRONTEND")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{shell:?}");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let log = fs::read_to_string(root.join("var/log/rehost-first-boot.log")).unwrap();
        assert_eq!(said, log);
        let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} in {log}"));
        let order = [
            at("rehost first boot: 001-install-deb\n\
                 dpkg -i 001-agent.deb 002-x.deb 003-x.deb, noninteractive\n"),
            at(if broken.is_empty() {
                "rehost first boot: 001-install-deb ended with 0\n"
            } else {
                "not everything was installed; what dpkg leaves half done:\ndpkg --audit, \n\
                 rehost first boot: 001-install-deb ended with 2\n"
            }),
            at("rehost first boot: 002-start-guest-agent\n\
                 systemctl enable qemu-guest-agent.service\n\
                 systemctl --no-block start qemu-guest-agent.service\n"),
            at("rehost first boot: 002-start-guest-agent ended with 0\n"),
            at("rehost first boot: 003-one.sh\none\n"),
            at("rehost first boot: 003-one.sh ended with 3\n"),
            at("rehost first boot: 004-t_w_o\ntwo\n"),
            at("rehost first boot: 004-t_w_o ended with 0\n"),
        ];
        assert!(order.is_sorted(), "{log}");
        assert!(!root.join("var/lib/rehost").exists(), "it goes");
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        assert_eq!(fs::read_dir(wants).unwrap().count(), 0);
    }
}

#[test]
fn a_script_that_leaves_something_running_does_not_hold_the_boot() {
    for shell in [&["dash"][..], &["bash", "--posix"], &["busybox", "sh"]] {
        if !have(&["timeout", shell[0]]) {
            continue;
        }
        let (keep, files) = guest();
        let root = keep.path();
        let log = "/var/log/rehost-first-boot.log";
        files.put(log, "of an earlier time\n");
        let options = scripts(&[
            ("one", "#!/bin/sh\nsleep 60 &\necho pid=$!\n"),
            ("two", "#!/bin/sh\necho two\n"),
        ]);
        carry_out(&planned(Init::Systemd, &files, &options), &files);
        moved(root, root);
        let runner = root.join(HOME.trim_start_matches('/')).join("run");
        // Its output is a pipe: whoever holds that holds this test, until `timeout` ends both.
        let ran = Command::new("timeout")
            .args(["--kill-after=5", "30"])
            .args(shell)
            .arg(&runner)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{shell:?} {}: {said}", ran.status);
        let log = fs::read_to_string(root.join(log.trim_start_matches('/'))).unwrap();
        assert_eq!(log, format!("of an earlier time\n{said}"));
        assert!(
            said.ends_with("two\nrehost first boot: 002-two ended with 0\n"),
            "{said}"
        );
        let left = said.lines().find_map(|line| line.strip_prefix("pid="));
        let ended = Command::new("kill").arg(left.unwrap()).status().unwrap();
        assert!(ended.success(), "it still ran");
    }
}

#[test]
fn a_package_that_needs_more_than_the_guest_has_is_told_of_by_name() {
    let (_keep, files) = guest();
    files.put("/usr/bin/dpkg", "");
    let agent = deb(
        "Package: agent\nDepends: libc6 (>= 2.34), libnuma1, liburing2 (>= 2.3)\n",
        "",
    );
    let told = |packages: &[(&str, &[u8])]| {
        let packages = packages.iter().map(|(name, content)| file(name, content));
        let options = PlanOptions {
            first_boot: FirstBoot {
                guest_agent: Some(file("agent.deb", &agent)),
                packages: packages.collect(),
                ..FirstBoot::default()
            },
            ..PlanOptions::default()
        };
        planned(Init::Systemd, &files, &options).notes
    };
    assert!(told(&[]).is_empty(), "nobody knows what is installed");
    files.put(
        "/var/lib/dpkg/status",
        "Package: libc6\nStatus: install ok installed\n",
    );
    let uring = deb("Package: liburing2\nDepends: libc6\n", "");
    let notes = told(&[("uring.deb", &uring)]);
    assert_eq!(notes.len(), 1, "{notes:?}");
    let note = notes[0].to_string();
    assert!(note.contains("agent.deb needs libnuma1,"), "{note}");
    assert!(note.contains("--package"), "{note}");
    let numa = deb("Package: libnuma1\n", "");
    let notes = told(&[("uring.deb", &uring), ("numa.deb", &numa)]);
    assert!(notes.is_empty(), "{notes:?}");

    let mut guest = system(Vec::new());
    guest.init = Init::Systemd;
    let options = PlanOptions {
        first_boot: FirstBoot {
            packages: vec![file("cut.deb", &numa[..numa.len() - 600])],
            ..FirstBoot::default()
        },
        ..PlanOptions::default()
    };
    let error = plan(&inspection(guest), &files, &KVM, &options).unwrap_err();
    assert!(
        error.to_string().contains("cut.deb is not a whole"),
        "{error}"
    );
}
