//! How an initramfs comes to load a driver, and what has to be written so that it loads new ones.
//!
//! Where udev runs (initramfs-tools, dracut, SUSE's mkinitrd with udev, mkinitcpio with its udev hook)
//! or Alpine's nlplug-findfs, the kernel's module aliases are enough: measured on Debian 12 and 13,
//! dracut and Alpine, where a module that the indexes name needs no hint. Elsewhere a hint is written:
//! mkinitcpio's `/config` lists modules, and scripts that call `insmod` by path (Red Hat's nash of
//! RHEL 5 and before, hand-made ones) get a call for each new module in dependency order before their
//! own first one. `insmod` of a module that is there already fails, and neither kind of script minds.
//!
//! Left out on purpose, told in the plan: images whose `/init` is a program.

use rehost_inspect::initramfs::Initramfs;
use serde::Serialize;

use super::Override;

/// What loads drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loading {
    /// udev, by the aliases of the devices it finds.
    Udev,
    /// Alpine's nlplug-findfs, by the same.
    NlplugFindfs,
    /// mkinitcpio's init, by the names in its `/config`.
    MkinitcpioConfig,
    /// The init script, line by line.
    Script(Shell),
    /// Nothing that is known.
    Unknown,
}

/// What runs an init script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shell {
    /// Red Hat's nash: no redirections, goes on after a command that failed.
    Nash,
    /// A POSIX shell.
    Posix,
}

/// Where each generation of udev has its daemon.
const UDEV: [&str; 8] = [
    "usr/lib/systemd/systemd-udevd",
    "lib/systemd/systemd-udevd",
    "usr/bin/udevadm",
    "bin/udevadm",
    "sbin/udevd",
    "usr/sbin/udevd",
    "lib/udev/udevd",
    "usr/lib/udev/udevd",
];

/// Where Alpine has its own.
const NLPLUG: [&str; 2] = ["sbin/nlplug-findfs", "usr/sbin/nlplug-findfs"];

/// The list that mkinitcpio's init reads.
const CONFIG: &str = "config";

/// A module as a hint names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hinted {
    /// Its name.
    pub(super) name: String,
    /// Its path in the image, without a leading `/`.
    pub(super) path: String,
}

impl Loading {
    /// How `initramfs` does it.
    #[must_use]
    pub fn of(initramfs: &Initramfs) -> Self {
        let has = |paths: &[&str]| {
            let mut paths = paths.iter();
            paths.any(|path| initramfs.read(path.as_bytes()).is_some())
        };
        if has(&UDEV) {
            return Self::Udev;
        }
        if has(&NLPLUG) {
            return Self::NlplugFindfs;
        }
        if has(&["init_functions"]) && has(&[CONFIG]) {
            return Self::MkinitcpioConfig;
        }
        let Some(init) = initramfs.text("init") else {
            return Self::Unknown;
        };
        let shell = match init.lines().next().and_then(|line| line.strip_prefix("#!")) {
            Some(line) if line.contains("nash") => Shell::Nash,
            Some(line) if line.contains("sh") => Shell::Posix,
            _ => return Self::Unknown,
        };
        match first_call(&init) {
            Some(_) => Self::Script(shell),
            None => Self::Unknown,
        }
    }

    /// Whether modules must be stored unpacked: these loaders hand the file's bytes to the kernel.
    pub(super) const fn wants_plain(self) -> bool {
        matches!(self, Self::Script(_))
    }

    /// The files to change so that `modules`, in load order, are loaded; none where nothing is
    /// needed, or all is there.
    pub(super) fn hints(self, initramfs: &Initramfs, modules: &[Hinted]) -> Vec<Override> {
        match self {
            Self::Udev | Self::NlplugFindfs | Self::Unknown => Vec::new(),
            Self::MkinitcpioConfig => list(initramfs, modules).into_iter().collect(),
            Self::Script(shell) => script(initramfs, modules, shell).into_iter().collect(),
        }
    }
}

/// mkinitcpio's `/config` is sourced by init: a further line adds to what the others say.
fn list(initramfs: &Initramfs, modules: &[Hinted]) -> Option<Override> {
    let old = initramfs.text(CONFIG)?;
    let listed = |name: &str| {
        old.lines()
            .filter(|line| line.trim_start().starts_with("MODULES="))
            .flat_map(|line| line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')))
            .any(|word| word.replace('-', "_") == name)
    };
    let names: Vec<&str> = modules
        .iter()
        .map(|module| module.name.as_str())
        .filter(|name| !listed(name))
        .collect();
    if names.is_empty() {
        return None;
    }
    let mut text = old.into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("MODULES=\"$MODULES {}\"\n", names.join(" ")));
    Some(Override {
        path: CONFIG.to_owned(),
        content: text.into_bytes(),
    })
}

/// Calls of `insmod` before the first one that the script has.
fn script(initramfs: &Initramfs, modules: &[Hinted], shell: Shell) -> Option<Override> {
    let old = initramfs.text("init")?;
    let calls: Vec<String> = modules
        .iter()
        .map(|module| format!("insmod /{}", module.path))
        .filter(|call| !old.lines().any(|line| line.trim_start().starts_with(call)))
        .collect();
    let at = first_call(&old)?;
    if calls.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(old.len() + 80 * calls.len());
    for (number, line) in old.split_inclusive('\n').enumerate() {
        if number == at {
            for call in &calls {
                text.push_str(call);
                text.push_str(match shell {
                    Shell::Nash => "\n",
                    Shell::Posix => " 2>/dev/null || :\n",
                });
            }
        }
        text.push_str(line);
    }
    Some(Override {
        path: "init".to_owned(),
        content: text.into_bytes(),
    })
}

/// The number of the first line that loads a module and is not inside of a block.
fn first_call(init: &str) -> Option<usize> {
    let is_call = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        let program = word.rsplit('/').next().unwrap_or_default();
        matches!(program, "insmod" | "modprobe")
    };
    init.lines()
        .position(|line| !line.starts_with([' ', '\t']) && is_call(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::archive::Supplement;

    fn image(files: &[(&str, &str)]) -> Initramfs {
        let empty = b"070701000000010000A1ED0000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0";
        let base = Initramfs::parse(empty.to_vec()).unwrap();
        let mut archive = Supplement::new(&base);
        for (path, content) in files {
            archive.put(path, content.as_bytes()).unwrap();
        }
        Initramfs::parse(archive.finish().unwrap()).unwrap()
    }

    fn modules() -> Vec<Hinted> {
        ["virtio_ring", "virtio_blk"]
            .iter()
            .map(|name| Hinted {
                name: (*name).to_owned(),
                path: format!("lib/modules/2.6.18/{name}.ko"),
            })
            .collect()
    }

    fn hinted(image: &Initramfs) -> Option<String> {
        let hints = Loading::of(image).hints(image, &modules());
        assert!(hints.len() < 2);
        let hint = hints.into_iter().next()?;
        Some(String::from_utf8(hint.content).unwrap())
    }

    #[test]
    fn images_with_udev_or_nlplug_need_no_hint() {
        for (path, loading) in [
            ("usr/lib/systemd/systemd-udevd", Loading::Udev),
            ("sbin/udevd", Loading::Udev),
            ("sbin/nlplug-findfs", Loading::NlplugFindfs),
        ] {
            let image = image(&[(path, "x"), ("init", "#!/bin/sh\ninsmod /x.ko\n")]);
            assert_eq!(Loading::of(&image), loading);
            assert_eq!(hinted(&image), None);
        }
    }

    #[test]
    fn mkinitcpio_lists_modules_in_its_configuration() {
        let config = "MODULES=\"ext4 virtio-ring\"\nHOOKS=\"keymap\"\n";
        let files = [("init_functions", "x"), ("config", config)];
        let text = hinted(&image(&files)).unwrap();
        assert_eq!(text, format!("{config}MODULES=\"$MODULES virtio_blk\"\n"));
        // Once is enough.
        assert_eq!(
            hinted(&image(&[("init_functions", "x"), ("config", &text)])),
            None
        );
    }

    #[test]
    fn a_nash_script_loads_them_before_its_own() {
        let init = "#!/bin/nash\nmount -t proc /proc /proc\necho Loading scsi_mod.ko module\n\
                    insmod /lib/scsi_mod.ko\nmkrootdev -t ext3 -o defaults,ro sda1\n";
        let text = hinted(&image(&[("init", init)])).unwrap();
        assert_eq!(
            text,
            "#!/bin/nash\nmount -t proc /proc /proc\necho Loading scsi_mod.ko module\n\
             insmod /lib/modules/2.6.18/virtio_ring.ko\ninsmod /lib/modules/2.6.18/virtio_blk.ko\n\
             insmod /lib/scsi_mod.ko\nmkrootdev -t ext3 -o defaults,ro sda1\n"
        );
        assert_eq!(hinted(&image(&[("init", &text)])), None);
    }

    #[test]
    fn a_shell_script_goes_on_when_one_is_there_already() {
        let init = "#!/bin/sh\nset -e\nload() {\n\tinsmod $1\n}\n/sbin/insmod /a.ko\n";
        let text = hinted(&image(&[("init", init)])).unwrap();
        assert!(
            text.contains("}\ninsmod /lib/modules/2.6.18/virtio_ring.ko 2>/dev/null || :\ninsmod"),
            "{text}"
        );
    }

    #[test]
    fn a_program_as_init_is_not_known() {
        assert_eq!(
            Loading::of(&image(&[("init", "\x7fELF")])),
            Loading::Unknown
        );
        assert_eq!(
            Loading::of(&image(&[("init", "#!/bin/sh\nexec x\n")])),
            Loading::Unknown
        );
    }
}
