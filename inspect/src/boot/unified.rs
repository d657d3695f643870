//! Unified kernel images on the EFI system partition: what each would boot.
//!
//! Boot Loader Specification, "Type #2 EFI Unified Kernel Images": `EFI/Linux/*.efi`. systemd-stub(7)
//! for the files beside an image that are added to it.

use rehost_block::{Error, Result};

use super::Context;
use super::bls::BlsEntry;
use crate::initramfs::Initramfs;
use crate::kernels::{IMAGE_START, describe, image_version, unread};
use crate::model::{BootEntry, Finding, InitramfsFound, Place, Severity, UnifiedKernel};
use crate::text::Text;
use crate::unified::Program;

/// An image, and what it is sorted by.
pub(super) struct Image {
    pub(super) found: UnifiedKernel,
    /// Its file name: the identifier of its entry.
    pub(super) id: String,
    /// Sort key and version, from the os-release inside.
    pub(super) order: BlsEntry,
}

impl Image {
    /// Its entry in a boot menu.
    pub(super) fn entry(&self, index: usize) -> BootEntry {
        let image = &self.found;
        let title = match (&image.os, &image.version) {
            (Some(os), Some(version)) => format!("{os} ({version})"),
            (Some(os), None) => os.clone(),
            (None, _) => self.id.clone(),
        };
        BootEntry {
            title,
            id: Some(self.id.clone()),
            index: index.to_string(),
            kernel: Some(image.path.clone()),
            initrds: Vec::new(),
            command_line: image.command_line.clone().unwrap_or_default(),
            place: Place::file(&image.path),
        }
    }
}

/// The images in `EFI/Linux` below `folder`.
pub(super) fn find(context: &Context<'_>, folder: &str) -> Vec<Image> {
    let linux = format!("{folder}/EFI/Linux");
    context
        .reader
        .names(&linux)
        .into_iter()
        .filter(|name| name.to_ascii_lowercase().ends_with(".efi"))
        .filter_map(|name| read(context, &linux, &name))
        .collect()
}

/// The image at `folder/name`; `None` when there is no file, or one that is no unified image.
pub(super) fn read(context: &Context<'_>, folder: &str, name: &str) -> Option<Image> {
    let path = format!("{folder}/{name}");
    let addons = addons(context, folder, name);
    match parts(context, &path) {
        Ok(Some((mut found, order))) => {
            found.addons = addons;
            Some(Image {
                found,
                id: name.to_owned(),
                order,
            })
        }
        Ok(None) => None,
        Err(error) => {
            context.reader.find(Finding {
                severity: Severity::Warning,
                id: "unified-kernel-unreadable",
                what: format!("cannot read the unified kernel image {path}: {error}"),
                evidence: vec![Place::file(&path)],
                fix: Some("build it again inside the guest".to_owned()),
            });
            None
        }
    }
}

fn parts(context: &Context<'_>, path: &str) -> Result<Option<(UnifiedKernel, BlsEntry)>> {
    let Some(file) = context.reader.open(path) else {
        return Ok(None);
    };
    let program = Program::parse(&file)?;
    if !program.is_unified() {
        return Ok(None);
    }
    let version = match program
        .text(&file, ".uname")?
        .filter(|text| !text.is_empty())
    {
        Some(version) => Some(version),
        None => image_version(&program.start(&file, ".linux", IMAGE_START)?),
    };
    let release = Text::new(
        path,
        program
            .text(&file, ".osrel")?
            .unwrap_or_default()
            .as_bytes(),
    );
    let value = |keys: &[&str]| {
        let mut found = keys.iter().filter_map(|key| release.assigned(key));
        found
            .find(|found| !found.value.is_empty())
            .map(|found| found.value)
    };
    let initramfs = program.read(&file, ".initrd")?;
    let initramfs = initramfs.map(|bytes| inside(path, version.as_deref(), bytes));
    let order = BlsEntry {
        sort_key: value(&["IMAGE_ID", "ID"]),
        version: value(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]),
        ..BlsEntry::default()
    };
    let found = UnifiedKernel {
        path: path.to_owned(),
        os: value(&["PRETTY_NAME", "NAME", "ID"]),
        command_line: program.text(&file, ".cmdline")?,
        signature: program.signature.as_ref().map(|range| range.start),
        measured: program.section(".pcrsig").is_some(),
        sections: program
            .sections
            .iter()
            .map(|section| section.name.clone())
            .collect(),
        addons: Vec::new(),
        initramfs,
        error: None,
        version,
    };
    Ok(Some((found, order)))
}

/// The initramfs inside; one that cannot be read has its error.
fn inside(path: &str, version: Option<&str>, bytes: Vec<u8>) -> InitramfsFound {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    match Initramfs::parse(bytes) {
        Ok(initramfs) => {
            let own = initramfs.versions();
            let version = version.or(own.first().map(String::as_str));
            describe(&initramfs, path, version.unwrap_or_default(), size)
        }
        Err(error) => unreadable(path, size, &error),
    }
}

fn unreadable(path: &str, size: u64, error: &Error) -> InitramfsFound {
    InitramfsFound {
        error: Some(error.to_string()),
        ..unread(path, size)
    }
}

/// What systemd-stub adds: files in `NAME.efi.extra.d`, and for every image `loader/addons`.
fn addons(context: &Context<'_>, folder: &str, name: &str) -> Vec<String> {
    let esp = folder.strip_suffix("/EFI/Linux").unwrap_or(folder);
    let own = format!("{folder}/{name}.extra.d");
    let shared = format!("{esp}/loader/addons");
    [own, shared]
        .into_iter()
        .flat_map(|folder| {
            let names = context.reader.names(&folder);
            names
                .into_iter()
                .map(move |name| format!("{folder}/{name}"))
        })
        .collect()
}
