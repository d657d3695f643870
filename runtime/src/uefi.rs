//! `UefiImage`: a UEFI firmware for QEMU, found as QEMU's other users find it.
//!
//! QEMU, docs/interop/firmware.json: packages leave a description of each firmware in a folder; a file of
//! the same name in a folder of the host's or the user's own takes its place, an empty one hides it, and
//! of those that fit, the first by name is taken. Where none fits, well known places are looked at.
//!
//! Left out on purpose, each named when nothing else is found: firmware that starts signed boot loaders
//! only (Secure Boot) or needs SMM, firmware in one file with its memory or without one, and other
//! architectures.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rehost_block::{Error, Result};
use serde::{Deserialize, Serialize};

/// Folders of descriptions, the weakest first; the user's own comes last ([`folders`]).
const FOLDERS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];

/// Where distributions put it, code and memory: Debian and Ubuntu, Fedora, Arch, openSUSE, QEMU itself.
const WELL_KNOWN: [[&str; 2]; 6] = [
    [
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ],
    [
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ],
    [
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ],
    [
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ],
    [
        "/usr/share/qemu/ovmf-x86_64-code.bin",
        "/usr/share/qemu/ovmf-x86_64-vars.bin",
    ],
    [
        "/usr/share/qemu/edk2-x86_64-code.fd",
        "/usr/share/qemu/edk2-i386-vars.fd",
    ],
];

/// What the machine types are called that `q35` stands for.
const MACHINES: &str = "pc-q35-";

/// Features of a firmware that no machine here has, and what they are called.
const REFUSED: [(&str, &str); 3] = [
    ("enrolled-keys", "starts signed boot loaders only"),
    ("secure-boot", "is for Secure Boot"),
    ("requires-smm", "needs SMM"),
];

/// A firmware's code, and what its memory holds when it is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UefiImage {
    /// What its package says of it.
    pub description: String,
    /// The file with its code; it is never written to.
    pub code: PathBuf,
    /// The file whose copy becomes a machine's memory of its own (NVRAM).
    pub nvram_template: PathBuf,
    /// The formats of both, as QEMU calls them.
    #[serde(skip)]
    pub(crate) formats: [Format; 2],
}

/// A format of such files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Raw,
    Qcow2,
}

impl Format {
    /// The name of QEMU's driver.
    pub(crate) const fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A description, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    #[serde(default)]
    description: String,
    #[serde(default)]
    interface_types: Vec<String>,
    mapping: Mapping,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(
    tag = "device",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
enum Mapping {
    Flash {
        /// `split` where it is not said.
        mode: Option<String>,
        executable: FlashFile,
        nvram_template: Option<FlashFile>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct FlashFile {
    filename: PathBuf,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    #[serde(default)]
    machines: Vec<String>,
}

impl UefiImage {
    /// The firmware that this host has for a q35.
    ///
    /// # Errors
    /// Unsupported, with what was passed over and why, when there is none.
    pub fn find() -> Result<Self> {
        let folders = folders(env::var_os("XDG_CONFIG_HOME"), env::var_os("HOME"));
        Self::find_in(&folders, &WELL_KNOWN)
    }

    /// Firmware in two raw files, for tests.
    #[cfg(test)]
    pub(crate) fn of(code: &str, nvram_template: &str) -> Self {
        Self {
            description: "test".to_owned(),
            code: code.into(),
            nvram_template: nvram_template.into(),
            formats: [Format::Raw; 2],
        }
    }

    fn find_in(folders: &[PathBuf], well_known: &[[&str; 2]]) -> Result<Self> {
        let mut passed_over = Vec::new();
        for path in descriptors(folders) {
            match Self::described(&path) {
                Ok(image) => return Ok(image),
                Err(why) => passed_over.push(why.to_string()),
            }
        }
        for [code, template] in well_known {
            let (code, template) = (PathBuf::from(code), PathBuf::from(template));
            if code.is_file() && template.is_file() {
                return Ok(Self {
                    description: "UEFI firmware without a description".to_owned(),
                    code,
                    nvram_template: template,
                    formats: [Format::Raw; 2],
                });
            }
        }
        let error = Error::unsupported("there is no UEFI firmware for QEMU on this host")
            .hint("install it (Debian and Ubuntu: apt-get install ovmf; Fedora: edk2-ovmf)");
        Err(if passed_over.is_empty() {
            error
        } else {
            error.because(passed_over.join("; "))
        })
    }

    /// The firmware that `path` describes, or why it is not for us.
    fn described(path: &Path) -> Result<Self> {
        let text =
            fs::read(path).map_err(|error| Error::io("cannot be read", error).in_file(path))?;
        let descriptor: Descriptor = serde_json::from_slice(&text).map_err(|error| {
            Error::corrupt("is not understood")
                .because(error)
                .in_file(path)
        })?;
        descriptor.image().map_err(|error| error.in_file(path))
    }
}

impl Descriptor {
    fn image(self) -> Result<UefiImage> {
        if !self.interface_types.iter().any(|kind| kind == "uefi") {
            return Err(Error::unsupported("is no UEFI"));
        }
        let ours = |target: &Target| {
            target.architecture == "x86_64" && target.machines.iter().any(|glob| is_q35(glob))
        };
        if !self.targets.iter().any(ours) {
            return Err(Error::unsupported("is for other machines"));
        }
        for (feature, why) in REFUSED {
            if self.features.iter().any(|known| known == feature) {
                return Err(Error::unsupported(why));
            }
        }
        let Mapping::Flash {
            mode,
            executable,
            nvram_template: Some(template),
        } = self.mapping
        else {
            return Err(Error::unsupported(
                "is not code in flash with a memory beside it",
            ));
        };
        if mode.is_some_and(|mode| mode != "split") {
            return Err(Error::unsupported("has its code and its memory in one"));
        }
        if !executable.filename.is_file() || !template.filename.is_file() {
            return Err(Error::corrupt("names files that are not there"));
        }
        Ok(UefiImage {
            description: self.description,
            code: executable.filename,
            nvram_template: template.filename,
            formats: [executable.format, template.format],
        })
    }
}

/// Whether a name of machine types, which may end in a star, is one of q35's of any version.
fn is_q35(glob: &str) -> bool {
    match glob.split_once('*') {
        Some((prefix, "")) => MACHINES.starts_with(prefix),
        _ => glob == "q35",
    }
}

/// All folders with descriptions, the weakest first.
fn folders(config: Option<OsString>, home: Option<OsString>) -> Vec<PathBuf> {
    let config = config
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| home.map(|home| Path::new(&home).join(".config")));
    let own = config.map(|folder| folder.join("qemu/firmware"));
    FOLDERS.iter().map(PathBuf::from).chain(own).collect()
}

/// The descriptions that hold, in the order in which they are asked.
fn descriptors(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut by_name = BTreeMap::new();
    for folder in folders {
        // One that is not there describes nothing.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|suffix| suffix == "json") {
                by_name.insert(entry.file_name(), path);
            }
        }
    }
    let hidden = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() == 0);
    by_name.into_values().filter(|path| !hidden(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A description with `features`, of files in `folder`, written to `to`.
    fn describe(to: &Path, folder: &Path, name: &str, features: &str) {
        for file in ["code", "vars"] {
            fs::write(folder.join(format!("{name}.{file}")), file).unwrap();
        }
        let file = |kind: &str| folder.join(format!("{name}.{kind}"));
        let text = format!(
            r#"{{"description": "{name}", "interface-types": ["uefi"], "tags": [],
                "mapping": {{"device": "flash",
                    "executable": {{"filename": {:?}, "format": "raw"}},
                    "nvram-template": {{"filename": {:?}, "format": "qcow2"}}}},
                "targets": [{{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}}],
                "features": [{features}]}}"#,
            file("code"),
            file("vars"),
        );
        fs::write(to, text).unwrap();
    }

    #[test]
    fn the_first_description_that_fits_is_taken_and_the_users_own_come_first() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let (system, user) = (at("system"), at("user"));
        fs::create_dir_all(&system).unwrap();
        fs::create_dir_all(&user).unwrap();
        let folders = [system.clone(), at("absent"), user.clone()];
        let found = || UefiImage::find_in(&folders, &[]);

        describe(
            &system.join("40-a.json"),
            temporary.path(),
            "a",
            r#""acpi-s3", "enrolled-keys""#,
        );
        describe(
            &system.join("50-b.json"),
            temporary.path(),
            "b",
            r#""secure-boot", "requires-smm""#,
        );
        let error = found().unwrap_err().to_string();
        for part in [
            "no UEFI firmware",
            "40-a.json: starts signed boot loaders only",
            "ovmf",
        ] {
            assert!(error.contains(part), "{error}");
        }
        describe(
            &system.join("60-c.json"),
            temporary.path(),
            "c",
            r#""verbose-dynamic""#,
        );
        describe(&system.join("70-d.json"), temporary.path(), "d", "");
        let image = found().unwrap();
        assert_eq!(image.description, "c");
        assert_eq!(image.code, at("c.code"));
        assert_eq!(image.nvram_template, at("c.vars"));
        assert_eq!(image.formats, [Format::Raw, Format::Qcow2]);

        // The same name elsewhere: another firmware, or none.
        describe(&user.join("60-c.json"), temporary.path(), "e", "");
        assert_eq!(found().unwrap().description, "e");
        fs::write(user.join("60-c.json"), "").unwrap();
        assert_eq!(found().unwrap().description, "d");
        fs::remove_file(at("d.code")).unwrap();
        let error = found().unwrap_err().to_string();
        assert!(
            error.contains("70-d.json: names files that are not there"),
            "{error}"
        );

        let known = [at("b.code"), at("b.vars")].map(|path| path.to_str().unwrap().to_owned());
        let known = [["/nowhere", "/nowhere"], [&known[0], &known[1]]];
        assert_eq!(
            UefiImage::find_in(&folders, &known).unwrap().code,
            at("b.code")
        );
    }

    #[test]
    fn what_is_not_for_a_q35_is_passed_over_by_name() {
        let flash = r#""mapping": {"device": "flash", "mode": "MODE", "executable": {"filename": "/c"}, "nvram-template": {"filename": "/v"}}"#;
        let target = r#""targets": [{"architecture": "x86_64", "machines": ["q35"]}]"#;
        let split = flash.replace("MODE", "split");
        let uefi = r#""interface-types": ["uefi"]"#;
        for (text, named) in [
            (format!("{{{split}, {target}}}"), "is no UEFI"),
            (
                format!(
                    r#"{{{split}, {uefi}, "targets": [{{"architecture": "aarch64", "machines": ["virt-*"]}}]}}"#
                ),
                "other machines",
            ),
            (
                format!(
                    r#"{{{split}, {uefi}, "targets": [{{"architecture": "x86_64", "machines": ["microvm", "pc-i440fx-*"]}}]}}"#
                ),
                "other machines",
            ),
            (
                format!(
                    r#"{{"mapping": {{"device": "memory", "filename": "/f"}}, {uefi}, {target}}}"#
                ),
                "not code in flash",
            ),
            (
                format!(
                    "{{{}, {uefi}, {target}}}",
                    flash.replace("MODE", "combined")
                ),
                "in one",
            ),
            (format!("{{{split}, {uefi}, {target}}}"), "not there"),
        ] {
            let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
            let why = descriptor.image().unwrap_err().to_string();
            assert!(why.contains(named), "{why}: {text}");
        }
    }

    #[test]
    fn the_users_own_folder_is_where_the_host_says() {
        let own = |config: Option<&str>, home: Option<&str>| {
            let all = folders(config.map(Into::into), home.map(Into::into));
            all.get(2).map(|folder| folder.display().to_string())
        };
        assert_eq!(
            own(Some("/c"), Some("/h")).as_deref(),
            Some("/c/qemu/firmware")
        );
        assert_eq!(
            own(Some("relative"), Some("/h")).as_deref(),
            Some("/h/.config/qemu/firmware")
        );
        assert_eq!(own(None, None), None);
    }
}
