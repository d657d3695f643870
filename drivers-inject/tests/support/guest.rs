//! A guest that is a folder, with the inspection that belongs to it.

use std::fs;
use std::path::PathBuf;

use rehost_block::Result;
use rehost_fs::FileKind;
use rehost_inject::guest::{FoundDirectory, FoundFile, GuestFiles};
use rehost_inject::plan::Change;
use rehost_inspect::Inspection;
use rehost_inspect::model::{
    BootEntry, BootLoader, BootLoaderKind, BootSource, DeviceName, DeviceRole, DriverFound,
    DriverState, Family, FilesystemRef, Firmware, Generator, GuestSystem, Init, InitramfsFound,
    Kernel, OsRelease, Place, Readiness, SCHEMA, UnifiedKernel,
};

use super::VERSION;

/// The guest's files are those below a folder.
pub struct Folder(pub PathBuf);

impl Folder {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Writes a file of the guest.
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// The one filesystem.
pub fn root() -> FilesystemRef {
    FilesystemRef {
        disk: 0,
        volume: 1,
        name: None,
        subvolume: None,
        uuid: Some("5c0f3f0e-9a53-4d0e-8f0b-6f1c8a0d2b12".into()),
    }
}

impl GuestFiles for Folder {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(fs::read(self.path(path)).ok())
    }

    fn file(&self, path: &str) -> Result<Option<FoundFile>> {
        let there = self.path(path);
        // As in the guest: without links.
        let top = self.0.canonicalize().unwrap();
        let inner = there.canonicalize().ok().filter(|_| there.is_file());
        Ok(inner.map(|inner| FoundFile {
            at: root(),
            path: format!("/{}", inner.strip_prefix(top).unwrap().display()),
            plain: true,
        }))
    }

    fn directory(&self, path: &str) -> Result<Option<FoundDirectory>> {
        let there = self.path(path).is_dir();
        Ok(there.then(|| FoundDirectory {
            at: root(),
            path: path.to_owned(),
        }))
    }

    fn names(&self, path: &str) -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(self.path(path)) else {
            return Ok(Vec::new());
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        Ok(names)
    }

    fn kind(&self, path: &str) -> Result<Option<FileKind>> {
        let kind = fs::symlink_metadata(self.path(path)).map(|metadata| metadata.file_type());
        Ok(kind.ok().map(|kind| match kind {
            kind if kind.is_symlink() => FileKind::Symlink,
            kind if kind.is_dir() => FileKind::Directory,
            _ => FileKind::Regular,
        }))
    }

    fn link(&self, path: &str) -> Result<Option<String>> {
        let target = fs::read_link(self.path(path)).ok();
        Ok(target.map(|target| target.to_str().unwrap().to_owned()))
    }

    fn is_labelled(&self, path: &str) -> Result<bool> {
        Ok(self.path(path).join(".labelled").exists())
    }
}

/// A driver of a kernel.
pub fn driver(name: &'static str, kernel: DriverState, inside: bool) -> DriverFound {
    DriverFound {
        name,
        kernel,
        in_initramfs: Some(inside),
    }
}

/// The kernel of [`VERSION`], with virtio as modules that its initramfs does not hold.
pub fn kernel(files: &Folder) -> Kernel {
    let path = format!("/boot/initrd.img-{VERSION}");
    let size = files
        .read(&path)
        .unwrap()
        .map_or(0, |content| content.len() as u64);
    Kernel {
        version: VERSION.into(),
        image: Some(format!("/boot/vmlinuz-{VERSION}")),
        initramfs: Some(InitramfsFound {
            path,
            size,
            generator: Generator::InitramfsTools,
            segments: Vec::new(),
            modules: Vec::new(),
            host_only: None,
            squashed: None,
            hints: Vec::new(),
            error: None,
        }),
        config: Some(format!("/boot/config-{VERSION}")),
        modules: Some(format!("/usr/lib/modules/{VERSION}")),
        drivers: [
            "virtio_pci",
            "virtio_blk",
            "virtio_scsi",
            "virtio_net",
            "sd_mod",
        ]
        .into_iter()
        .map(|name| driver(name, DriverState::Module, false))
        .collect(),
    }
}

/// An entry of the boot menu at `line` of grub.cfg.
pub fn entry(line: u32, command_line: &str) -> BootEntry {
    BootEntry {
        title: "Debian".into(),
        id: None,
        index: "0".into(),
        kernel: Some(format!("/boot/vmlinuz-{VERSION}")),
        initrds: vec![format!("/boot/initrd.img-{VERSION}")],
        command_line: command_line.into(),
        place: Place::line("/boot/grub/grub.cfg", line),
    }
}

/// A unified kernel image that was found at `path`.
pub fn unified_kernel(path: &str) -> UnifiedKernel {
    UnifiedKernel {
        path: path.into(),
        version: None,
        os: None,
        command_line: None,
        signature: None,
        measured: false,
        sections: Vec::new(),
        addons: Vec::new(),
        initramfs: None,
        error: None,
    }
}

/// A setting of /etc/default/grub.
pub fn source(key: &str, value: &str, line: u32) -> BootSource {
    BootSource {
        key: key.into(),
        value: value.into(),
        place: Place::line("/etc/default/grub", line),
    }
}

/// A disk called by its bus.
pub fn named(name: &str, stable: Option<&str>, role: DeviceRole, place: Place) -> DeviceName {
    DeviceName {
        name: name.into(),
        resolved: stable.map(|_| root()),
        stable: stable.map(str::to_owned),
        role,
        place,
        inside: None,
    }
}

/// A Debian 12 with nothing special.
pub fn system(kernels: Vec<Kernel>) -> GuestSystem {
    GuestSystem {
        os: OsRelease {
            id: "debian".into(),
            version_id: Some("12".into()),
            pretty_name: "Debian GNU/Linux 12 (bookworm)".into(),
            id_like: Vec::new(),
            family: Family::Debian,
            place: Place::file("/etc/os-release"),
        },
        hostname: None,
        architecture: None,
        init: Init::Systemd,
        root: root(),
        mounts: Vec::new(),
        kernels,
        boot: BootLoader {
            kind: BootLoaderKind::Grub2,
            config: Some("/boot/grub/grub.cfg".into()),
            firmware: Firmware::Bios,
            entries: Vec::new(),
            default: None,
            default_reason: String::new(),
            sources: Vec::new(),
            esp: None,
            unified: Vec::new(),
        },
        crypttab: Vec::new(),
        arrays: Vec::new(),
        multipath: None,
        lvm: None,
        verified: Vec::new(),
        network: Vec::new(),
        resume: Vec::new(),
        device_names: Vec::new(),
        tools: Vec::new(),
        packages: None,
        selinux: None,
        cloud_init: None,
        findings: Vec::new(),
        readiness: Readiness::of(&[]),
    }
}

/// The inspection that chose `system`.
pub fn inspection(system: GuestSystem) -> Inspection {
    Inspection {
        schema: SCHEMA,
        disks: Vec::new(),
        volumes: Vec::new(),
        systems: vec![system],
        chosen: Some(0),
        choice: "the only one".into(),
        findings: Vec::new(),
    }
}

/// Writes what an edit does to a guest that is a folder.
pub fn carry_out(plan: &rehost_inject::plan::EditPlan, files: &Folder) {
    for edit in &plan.edits {
        match &edit.change {
            Change::Remove => fs::remove_file(files.path(&edit.path)).unwrap(),
            Change::Link { target } => {
                let path = files.path(&edit.path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, path).unwrap();
            }
            _ => files.put(&edit.path, edit.content.as_slice()),
        }
    }
}
