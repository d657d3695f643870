//! Package databases that are text: dpkg's status, apk's `installed`, pacman's `desc`.
//!
//! deb-control(5) and dpkg(1) for states; the apk wiki's "Apk spec", "installed database"; libalpm's
//! local database, version 9.

use super::Listed;
use crate::model::Package;

/// States (dpkg(1), "Package states") in which a package's files are in place.
const INSTALLED: [&str; 3] = ["installed", "triggers-awaited", "triggers-pending"];

/// Adds the packages of a status file that are installed.
pub(super) fn dpkg(text: &str, listed: &mut Listed) {
    let mut stanza = Stanza::default();
    // An empty line after the last stanza, whether or not the file has one.
    for line in text.lines().chain(std::iter::once("")) {
        if line.trim().is_empty() {
            let state = stanza.state.take();
            // One file per package (`status.d`) has no state: it is there because it is installed.
            let here = state.is_none_or(|state| INSTALLED.contains(&state));
            listed_if(std::mem::take(&mut stanza), here, listed);
            continue;
        }
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key {
            "Package" => stanza.name = Some(value),
            "Version" => stanza.version = Some(value),
            "Architecture" => stanza.architecture = Some(value),
            "Status" => stanza.state = value.split_whitespace().nth(2).or(Some("")),
            _ => {}
        }
    }
}

/// Adds the packages of apk's `installed`.
pub(super) fn apk(text: &str, listed: &mut Listed) {
    let mut stanza = Stanza::default();
    for line in text.lines().chain(std::iter::once("")) {
        match line.split_once(':') {
            Some(("P", name)) => stanza.name = Some(name),
            Some(("V", version)) => stanza.version = Some(version),
            Some(("A", architecture)) => stanza.architecture = Some(architecture),
            None if line.is_empty() => listed_if(std::mem::take(&mut stanza), true, listed),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Stanza<'a> {
    name: Option<&'a str>,
    version: Option<&'a str>,
    architecture: Option<&'a str>,
    state: Option<&'a str>,
}

fn listed_if(stanza: Stanza<'_>, wanted: bool, listed: &mut Listed) {
    if let Some(name) = stanza.name.filter(|_| wanted) {
        listed.add(Package {
            name: name.to_owned(),
            version: stanza.version.unwrap_or_default().to_owned(),
            architecture: stanza.architecture.map(str::to_owned),
        });
    }
}

/// One `desc`: `%KEY%`, then its values, a line each.
pub(super) fn pacman(text: &str) -> Option<Package> {
    let value = |key: &str| {
        let mut lines = text.lines();
        lines.find(|line| *line == key)?;
        lines.next().filter(|line| !line.is_empty())
    };
    Some(Package {
        name: value("%NAME%")?.to_owned(),
        version: value("%VERSION%")?.to_owned(),
        architecture: value("%ARCH%").map(str::to_owned),
    })
}

/// `name-version-release`: neither version nor release holds a hyphen.
pub(super) fn pacman_folder(name: &str) -> Option<Package> {
    let (rest, release) = name.rsplit_once('-')?;
    let (name, version) = rest.rsplit_once('-')?;
    Some(Package {
        name: name.to_owned(),
        version: format!("{version}-{release}"),
        architecture: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(listed: &Listed) -> Vec<String> {
        let show = |package: &Package| {
            let arch = package.architecture.as_deref().unwrap_or("-");
            format!("{} {} {arch}", package.name, package.version)
        };
        listed.packages.iter().map(show).collect()
    }

    #[test]
    fn only_packages_whose_files_are_in_place_are_listed() {
        let mut listed = Listed::default();
        dpkg(
            "Package: adduser\nStatus: install ok installed\nArchitecture: all\nVersion: 3.134\n\
             Description: add users\n Package: not-a-field\n\n\
             Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
             Package: held\nStatus: hold ok installed\nVersion: 1:2-3\nArchitecture: amd64\n\n\
             Package: waits\nStatus: install ok triggers-awaited\nVersion: 4",
            &mut listed,
        );
        assert_eq!(
            shown(&listed),
            ["adduser 3.134 all", "held 1:2-3 amd64", "waits 4 -"]
        );
    }

    #[test]
    fn apk_and_pacman_databases_are_read() {
        let mut listed = Listed::default();
        apk(
            "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\nR:ld-musl-x86_64.so.1\n\nP:busybox\nV:1.36.1-r29\nA:x86_64\n\n",
            &mut listed,
        );
        assert_eq!(
            shown(&listed),
            ["musl 1.2.5-r0 x86_64", "busybox 1.36.1-r29 x86_64"]
        );
        let desc =
            "%NAME%\nlinux\n\n%VERSION%\n6.6.8.arch1-1\n\n%ARCH%\nx86_64\n\n%DEPENDS%\ncoreutils\n";
        let found = pacman(desc).unwrap();
        assert_eq!(found.version, "6.6.8.arch1-1");
        assert_eq!(pacman("%NAME%\nx\n"), None);
        let found = pacman_folder("lib32-gcc-libs-13.2.1-3").unwrap();
        assert_eq!(
            (found.name.as_str(), found.version.as_str()),
            ("lib32-gcc-libs", "13.2.1-3")
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_text_never_panics(text in "((Package|Status|P|V|%NAME%)[: \n].{0,20}\n?){0,8}") {
            let mut listed = Listed::default();
            dpkg(&text, &mut listed);
            apk(&text, &mut listed);
            pacman(&text);
            pacman_folder(&text);
        }
    }
}
