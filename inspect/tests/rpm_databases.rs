//! rpm's database as SQLite and as Berkeley DB, made by rpm and by Berkeley DB's own loader, and read
//! back against what rpm says is in it. Debian's rpm is built without ndb.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rehost_inspect::packages::rpm::{bdb, sqlite};
use rehost_inspect::packages::{Bytes, Listed};

/// Whether all of `tools` are installed; names the first that is not.
fn have(tools: &[&str]) -> bool {
    for tool in tools {
        let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        if !folders.iter().any(|f| Path::new(f).join(tool).exists()) {
            eprintln!("skipped: needs {tool}");
            return false;
        }
    }
    true
}

fn run(command: &mut Command) -> String {
    let output = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = output.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// Packages of every shape: with and without an epoch, one with a header of several pages, names and
/// versions with all that they may hold.
fn packages(folder: &Path) -> Vec<PathBuf> {
    let long: String = (0..400).map(|n| format!("- change number {n}\n")).collect();
    let specs = [
        ("bash", "5.1.8", "9.el9", "", ""),
        ("kernel-core", "5.14.0", "362.8.1.el9_3", "", long.as_str()),
        ("libstdc++", "11.4.1~rc2", "2.1", "Epoch: 3\n", ""),
        ("open-vm-tools", "12.2.5^git1", "3.el9", "Epoch: 0\n", ""),
    ];
    for (name, version, release, epoch, long) in specs {
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: {release}\n{epoch}Summary: Test\nLicense: MIT\n\
             BuildArch: noarch\n%description\nTest.\n{long}\n%install\nmkdir -p %{{buildroot}}/usr/share/{name}\n\
             echo x > %{{buildroot}}/usr/share/{name}/file\n%files\n/usr/share/{name}\n"
        );
        let path = folder.join(format!("{name}.spec"));
        fs::write(&path, spec).unwrap();
        let top = format!("_topdir {}", folder.display());
        let mut build = Command::new("rpmbuild");
        build.args(["-bb", "--quiet", "--define", &top]).arg(&path);
        run(build.env("HOME", folder));
    }
    let mut built: Vec<PathBuf> = fs::read_dir(folder.join("RPMS/noarch"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    built.sort();
    built
}

fn rpm(database: &Path, backend: &str) -> Command {
    let mut command = Command::new("rpm");
    command.arg("--dbpath").arg(database);
    command.args(["--define", &format!("_db_backend {backend}")]);
    command
}

/// Installs into a database of its own, and removes one again so that there is a hole.
fn install(database: &Path, backend: &str, packages: &[PathBuf]) {
    fs::create_dir_all(database).unwrap();
    let options = [
        "--force-debian",
        "--justdb",
        "--nodeps",
        "--noscripts",
        "--notriggers",
    ];
    let mut command = rpm(database, backend);
    run(command.arg("-i").args(options).args(packages));
    let mut command = rpm(database, backend);
    run(command.arg("-e").args(&options[..4]).arg("bash"));
    let mut command = rpm(database, backend);
    run(command.arg("-i").args(options).arg(&packages[0]));
}

/// What rpm itself lists.
fn listed_by_rpm(database: &Path, backend: &str) -> Vec<String> {
    let format = "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE} %{ARCH}\n";
    let mut query = rpm(database, backend);
    let told = run(query.args(["-qa", "--qf", format]));
    let mut lines: Vec<String> = told
        .lines()
        // Epoch 0 is none.
        .map(|line| line.replace(" 0:", " "))
        .collect();
    lines.sort();
    lines
}

fn shown(listed: &Listed) -> Vec<String> {
    assert!(listed.damage.is_none(), "{:?}", listed.damage);
    let mut lines: Vec<String> = listed
        .packages
        .iter()
        .map(|package| {
            let architecture = package.architecture.as_deref().unwrap_or("(none)");
            format!("{} {} {architecture}", package.name, package.version)
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn sqlite_databases_list_what_rpm_lists() {
    if !have(&["rpm", "rpmbuild"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let packages = packages(folder.path());
    let database = folder.path().join("sqlite");
    install(&database, "sqlite", &packages);
    let expected = listed_by_rpm(&database, "sqlite");
    assert_eq!(expected.len(), 4, "{expected:?}");
    let bytes = fs::read(database.join("rpmdb.sqlite")).unwrap();
    let log = fs::read(database.join("rpmdb.sqlite-wal")).ok();
    let log = log.as_ref().map(|log| -> &dyn Bytes { log });
    assert_eq!(shown(&sqlite::read(&bytes, log).unwrap()), expected);
}

#[test]
fn berkeley_databases_list_what_rpm_lists() {
    if !have(&["rpm", "rpmbuild", "sqlite3", "db5.3_load"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let packages = packages(folder.path());
    let source = folder.path().join("source");
    install(&source, "sqlite", &packages);
    let rows = run(Command::new("sqlite3")
        .arg(source.join("rpmdb.sqlite"))
        .arg("SELECT hnum, hex(blob) FROM Packages"));
    for order in [1234, 4321] {
        // Keys are package numbers in the byte order of the machine; key 0 holds the next one.
        let number = |number: u32| {
            let bytes = if order == 1234 {
                number.to_le_bytes()
            } else {
                number.to_be_bytes()
            };
            bytes.map(|byte| format!("{byte:02x}")).concat()
        };
        let mut dump = format!(
            "VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize=4096\ndb_lorder={order}\nHEADER=END\n \
             {}\n {}\n",
            number(0),
            number(9)
        );
        for row in rows.lines() {
            let (key, blob) = row.split_once('|').unwrap();
            let key = number(key.parse().unwrap());
            dump.push_str(&format!(" {key}\n {}\n", blob.to_lowercase()));
        }
        dump.push_str("DATA=END\n");
        let database = folder.path().join(format!("bdb{order}"));
        fs::create_dir_all(&database).unwrap();
        let text = folder.path().join("dump");
        fs::write(&text, dump).unwrap();
        run(Command::new("db5.3_load")
            .arg("-f")
            .arg(&text)
            .arg(database.join("Packages")));
        let bytes = fs::read(database.join("Packages")).unwrap();
        let found = shown(&bdb::read(&bytes[..]).unwrap());
        assert_eq!(
            found,
            listed_by_rpm(&source, "sqlite"),
            "byte order {order}"
        );
        if order == 1234 {
            assert_eq!(found, listed_by_rpm(&database, "bdb_ro"));
        }
    }
}
