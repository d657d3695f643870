//! A Debian package, as far as it says what it needs: `Depends` and `Pre-Depends` of its control file.
//!
//! deb(5): an ar(5) archive whose member `control.tar` holds `control`; deb-control(5) has its fields.
//! dpkg unpacks a package before it looks at what that needs, and leaves it unpacked when something is
//! missing; rpm and apk refuse it instead, so of theirs nothing is read. Left out on purpose: versions and
//! architectures, which dpkg itself compares; names alone tell what was forgotten.

use std::collections::BTreeSet;
use std::io::{self, Read};

/// Largest control file that is read. Ours: the largest ones have some 10 KiB.
const MOST_CONTROL: u64 = 4 << 20;

/// How much of a control archive is looked through for it. Ours: it also holds a line of about 100 bytes for
/// each file of the package.
const MOST_ARCHIVE: u64 = 1 << 30;

/// What a package says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Its name, and what it stands for besides.
    names: Vec<String>,
    /// What it needs: one of each list.
    needs: Vec<Vec<String>>,
}

impl Control {
    /// Of a package file; `None` when it is damaged or cut off.
    pub(super) fn of(package: &[u8]) -> Option<Self> {
        let mut rest = package.strip_prefix(b"!<arch>\n")?;
        let mut control = None;
        // Ends because every round takes a header away.
        while !rest.is_empty() {
            let (header, behind) = rest.split_at_checked(60)?;
            let name = std::str::from_utf8(header.get(..16)?).ok()?.trim_end();
            let len: usize = number(header.get(48..58)?, 10)?;
            let (content, behind) = behind.split_at_checked(len)?;
            if control.is_none() && name.starts_with("control.tar") {
                control = Some(member(unpacked(content)?, "control")?);
            }
            // A member of odd length is followed by a line feed, the last one of all perhaps not.
            rest = behind.get(len % 2..).unwrap_or_default();
        }
        Some(Self::parse(&String::from_utf8_lossy(&control?)))
    }

    /// Of one stanza.
    fn parse(stanza: &str) -> Self {
        let mut control = Self::default();
        for (key, value) in fields(stanza) {
            match key {
                "Package" => control.names.push(value.trim().to_owned()),
                "Provides" => control
                    .names
                    .extend(alternatives(&value).into_iter().flatten()),
                "Depends" | "Pre-Depends" => control.needs.extend(alternatives(&value)),
                _ => {}
            }
        }
        control
    }

    /// What it needs that neither the guest has, by its status file, nor `others` bring along.
    pub(super) fn missing(&self, status: &str, others: &[Self]) -> Vec<String> {
        let mut there: BTreeSet<&str> = BTreeSet::new();
        let installed: Vec<Self> = status
            .split("\n\n")
            .filter(|stanza| {
                let mut lines = stanza.lines();
                let status = lines.find_map(|line| line.strip_prefix("Status:"));
                status.is_some_and(|status| status.ends_with(" installed"))
            })
            .map(Self::parse)
            .collect();
        for package in installed.iter().chain(others) {
            there.extend(package.names.iter().map(String::as_str));
        }
        let has = |name: &String| there.contains(name.as_str());
        let missing = self.needs.iter().filter(|any| !any.iter().any(has));
        missing.map(|any| any.join(" or ")).collect()
    }
}

/// The fields of a stanza, with the lines that continue them.
fn fields(stanza: &str) -> Vec<(&str, String)> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in stanza.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key, value.to_owned()));
        }
    }
    fields
}

/// Names between commas, and between bars, without versions and architectures.
fn alternatives(value: &str) -> Vec<Vec<String>> {
    let name = |one: &str| {
        let name = one.trim().split([' ', '(', ':', '[', '<']).next();
        name.unwrap_or_default().to_owned()
    };
    value
        .split(',')
        .filter(|one| !one.trim().is_empty())
        .map(|any| any.split('|').map(name).collect())
        .collect()
}

/// A number in a header, filled up with spaces or zeroes.
fn number(field: &[u8], radix: u32) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?;
    usize::from_str_radix(text.trim_matches(['\0', ' ']), radix).ok()
}

/// The plain bytes of a member; `None` when they cannot be had.
fn unpacked(packed: &[u8]) -> Option<Box<dyn Read + '_>> {
    Some(match packed {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Box::new(liblzma::read::XzDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::new(packed).ok()?),
        _ => Box::new(packed),
    })
}

/// A file at the top of a tar archive (POSIX ustar); `None` when it is not there, or too long.
fn member(tar: impl Read, wanted: &str) -> Option<Vec<u8>> {
    let mut rest = tar.take(MOST_ARCHIVE);
    let mut header = [0; 512];
    // Ends because every round takes a header away; the archive ends with one of zeroes.
    while rest.read_exact(&mut header).is_ok() {
        let name = header.get(..100)?.split(|byte| *byte == 0).next()?;
        if name.is_empty() {
            return None;
        }
        let len = u64::try_from(number(header.get(124..136)?, 8)?).ok()?;
        let name = std::str::from_utf8(name).ok()?;
        if name.trim_start_matches("./") == wanted {
            let mut content = Vec::new();
            let within = rest.take(len.min(MOST_CONTROL)).read_to_end(&mut content);
            return (u64::try_from(within.ok()?).ok()? == len).then_some(content);
        }
        let stored = len.checked_next_multiple_of(512)?;
        io::copy(&mut rest.by_ref().take(stored), &mut io::sink()).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &str) -> Control {
        Control::parse(text)
    }

    #[test]
    fn what_is_missing_is_named_and_what_comes_along_is_not() {
        let agent = control(
            "Package: agent\nPre-Depends: helpers (>= 1.54~)\nDepends: libc6 (>= 2.34),\n liburing2,\n \
             mail-agent | mta, libglib2.0-0t64 (>= 2) | libglib2.0-0:any,python3:any\n",
        );
        let status = "Package: libc6\nStatus: install ok installed\nVersion: 2.36\n\n\
                      Package: helpers\nStatus: install ok installed\n\n\
                      Package: liburing2\nStatus: deinstall ok config-files\n\n\
                      Package: exim\nStatus: install ok installed\nProvides: mta (= 1), x\n";
        let missing = |others: &[Control]| agent.missing(status, others).join(", ");
        assert_eq!(
            missing(&[]),
            "liburing2, libglib2.0-0t64 or libglib2.0-0, python3"
        );
        let more = [
            "Package: libglib2.0-0\n",
            "Package: a\nProvides: liburing2\n",
        ]
        .map(control);
        assert_eq!(missing(&more), "python3");
        assert_eq!(control("Package: alone\n").missing("", &[]), [""; 0]);
    }

    /// A package whose control archive holds these files.
    fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (name, content) in files {
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            tar.extend(header);
            tar.extend(*content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.resize(tar.len() + 1024, 0);
        let mut package = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", &tar[..])] {
            package.extend(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                    0,
                    0,
                    0,
                    100_644,
                    content.len()
                )
                .into_bytes(),
            );
            package.extend(content);
        }
        package
    }

    #[test]
    fn sums_of_many_files_before_it_are_passed_over() {
        let sums = vec![b'0'; 5 << 20];
        let control = ("./control", &b"Package: a\n"[..]);
        let many = package(&[("./md5sums", &sums), control]);
        assert_eq!(Control::of(&many).unwrap().names, ["a"]);
        assert_eq!(Control::of(&package(&[("./control", &sums)])), None);
    }

    #[test]
    fn a_package_that_is_cut_off_or_no_package_says_nothing() {
        let package = package(&[("./control", b"Package: a\n")]);
        assert_eq!(Control::of(&package).unwrap().names, ["a"]);
        for len in 9..package.len() {
            assert_ne!(
                Control::of(&package[..len]).map(|control| control.names),
                Some(vec!["a".to_owned()]),
                "{len}"
            );
        }
        assert_eq!(Control::of(b"PK"), None);
    }
}
