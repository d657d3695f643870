//! Small VMware machines made for a test from a tree of files, by mke2fs, sfdisk, cpio and mtools.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{have, judge};

pub(crate) const VERSION: &str = "6.1.0-99-test";
pub(crate) const ROOT_UUID: &str = "11111111-2222-4333-8444-555555555555";
const MIB: u64 = 1 << 20;
/// Of the root filesystem, which begins behind the first MiB.
const ROOT_SIZE: u64 = 40 * MIB;
/// Of the EFI system partition behind it.
const ESP_SIZE: u64 = 20 * MIB;

/// A machine being made.
pub(crate) struct Making {
    folder: PathBuf,
    /// Files of its EFI system partition: name in `EFI/Linux`, content.
    pub(crate) unified: Vec<(&'static str, Vec<u8>)>,
    /// Whether that partition has no room for anything else.
    pub(crate) full: bool,
}

impl Making {
    /// A guest of one kernel whose initramfs knows VMware's disks alone; `None`, said, when a tool is
    /// missing.
    pub(crate) fn guest(folder: &Path) -> Option<Self> {
        let tools = ["mke2fs", "sfdisk", "cpio", "mkfs.vfat", "mcopy"];
        if !tools.into_iter().all(have) {
            return None;
        }
        let making = Self {
            folder: folder.to_owned(),
            unified: Vec::new(),
            full: false,
        };
        making.put(
            "etc/os-release",
            "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Test OS\"\n",
        );
        making.put(
            "etc/fstab",
            format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n"),
        );
        making.put("usr/lib/systemd/systemd", [0x7f, b'E', b'L', b'F', 2, 1]);
        fs::create_dir_all(making.path("sbin")).unwrap();
        fs::create_dir_all(making.path("etc/network")).unwrap();
        fs::create_dir_all(making.path("efi")).unwrap();
        std::os::unix::fs::symlink("/usr/lib/systemd/systemd", making.path("sbin/init")).unwrap();
        let modules = format!("lib/modules/{VERSION}");
        let (mut dep, mut alias) = (String::new(), String::new());
        for name in [
            "virtio_pci",
            "virtio_blk",
            "virtio_net",
            "sd_mod",
            "vmw_pvscsi",
        ] {
            making.put(&format!("{modules}/kernel/{name}.ko"), name);
            dep.push_str(&format!("kernel/{name}.ko:\n"));
            alias.push_str(&format!("alias test:{name} {name}\n"));
        }
        making.put(&format!("{modules}/modules.dep"), dep);
        making.put(&format!("{modules}/modules.alias"), alias);
        making.put(&format!("{modules}/modules.symbols"), "");
        making.put(&format!("{modules}/modules.builtin"), "");
        making.put(&format!("boot/vmlinuz-{VERSION}"), kernel());
        making.put(&format!("boot/initrd.img-{VERSION}"), making.initramfs(&[]));
        making.menu("ro quiet");
        Some(making)
    }

    /// Writes a file of its root filesystem.
    pub(crate) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.join("root").join(path)
    }

    /// A menu of one entry with these words on the command line.
    pub(crate) fn menu(&self, words: &str) {
        self.put(
            "boot/grub/grub.cfg",
            format!(
                "menuentry 'Test OS' {{\n\tlinux /boot/vmlinuz-{VERSION} root=UUID={ROOT_UUID} \
                 {words}\n\tinitrd /boot/initrd.img-{VERSION}\n}}\n"
            ),
        );
    }

    /// An initramfs of initramfs-tools with these further files, as cpio packs it.
    pub(crate) fn initramfs(&self, more: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let modules = format!("usr/lib/modules/{VERSION}/kernel");
        let files = [
            "conf/initramfs.conf".to_owned(),
            "usr/lib/systemd/systemd-udevd".to_owned(),
            format!("{modules}/vmw_pvscsi.ko"),
            format!("{modules}/sd_mod.ko"),
        ];
        for file in files.iter().map(String::as_str).chain(more.iter().copied()) {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let pack = Command::new("sh")
            .args(["-c", "find . | cpio -o -H newc --quiet"])
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(pack.status.success());
        pack.stdout
    }

    /// The machine: a VMX beside a raw disk with its description.
    pub(crate) fn finish(self) -> PathBuf {
        let disk = self.folder.join("disk-flat.vmdk");
        let size = MIB + ROOT_SIZE + ESP_SIZE;
        let file = fs::File::create(&disk).unwrap();
        file.set_len(size).unwrap();
        let mut script = format!(
            "label: dos\nlabel-id: 0xb01db01d\nstart=2048, size={}, type=83, bootable\n",
            ROOT_SIZE / 512
        );
        if !self.unified.is_empty() {
            let (start, size) = ((MIB + ROOT_SIZE) / 512, ESP_SIZE / 512);
            script.push_str(&format!("start={start}, size={size}, type=ef\n"));
        }
        let scriptfile = self.folder.join("script");
        fs::write(&scriptfile, script).unwrap();
        judge(
            Command::new("sh")
                .args(["-c", "sfdisk --quiet \"$1\" < \"$2\"", "sh"])
                .arg(&disk)
                .arg(&scriptfile),
        );
        let root = self.folder.join("root.ext4");
        fs::File::create(&root).unwrap().set_len(ROOT_SIZE).unwrap();
        judge(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-F", "-U", ROOT_UUID, "-d"])
                .arg(self.folder.join("root"))
                .arg(&root),
        );
        file.write_all_at(&fs::read(&root).unwrap(), MIB).unwrap();
        if !self.unified.is_empty() {
            let esp = self.esp();
            file.write_all_at(&fs::read(&esp).unwrap(), MIB + ROOT_SIZE)
                .unwrap();
        }
        fs::write(
            self.folder.join("disk.vmdk"),
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                 createType=\"monolithicFlat\"\nRW {} FLAT \"disk-flat.vmdk\" 0\n",
                size / 512
            ),
        )
        .unwrap();
        let vmx = self.folder.join("guest.vmx");
        fs::write(
            &vmx,
            "config.version = \"8\"\nvirtualHW.version = \"19\"\ndisplayName = \"guest\"\n\
             numvcpus = \"1\"\nmemSize = \"512\"\nscsi0.present = \"TRUE\"\n\
             scsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\n\
             scsi0:0.fileName = \"disk.vmdk\"\n",
        )
        .unwrap();
        vmx
    }

    fn esp(&self) -> PathBuf {
        let esp = self.folder.join("esp.vfat");
        fs::File::create(&esp).unwrap().set_len(ESP_SIZE).unwrap();
        judge(Command::new("mkfs.vfat").arg("--invariant").arg(&esp));
        for folder in ["::EFI", "::EFI/Linux"] {
            judge(Command::new("mmd").arg("-i").arg(&esp).arg(folder));
        }
        for (name, content) in &self.unified {
            let file = self.folder.join(name);
            fs::write(&file, content).unwrap();
            judge(
                Command::new("mcopy")
                    .arg("-i")
                    .arg(&esp)
                    .arg(&file)
                    .arg(format!("::EFI/Linux/{name}")),
            );
        }
        if self.full {
            let said = judge(Command::new("mdir").arg("-i").arg(&esp).arg("::"));
            let last = said.lines().rev().find(|line| line.contains("bytes free"));
            let digits = last.unwrap().chars().filter(char::is_ascii_digit);
            let free: usize = digits.collect::<String>().parse().unwrap();
            let filler = self.folder.join("filler");
            fs::write(&filler, vec![1; free]).unwrap();
            judge(
                Command::new("mcopy")
                    .arg("-i")
                    .arg(&esp)
                    .arg(&filler)
                    .arg("::filler"),
            );
        }
        esp
    }
}

/// A kernel image with nothing but its setup header.
pub(crate) fn kernel() -> Vec<u8> {
    let mut image = vec![0u8; 4096];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x600u16.to_le_bytes());
    image[0x800..0x800 + VERSION.len()].copy_from_slice(VERSION.as_bytes());
    image
}

/// Where Debian has systemd's stub for unified images.
pub(crate) const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// A unified kernel image of `initrd`, as objcopy makes one of systemd's stub.
pub(crate) fn unified(folder: &Path, initrd: &[u8], more: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    if !have("objcopy") {
        return None;
    }
    if !Path::new(STUB).exists() {
        println!("skipped: needs {STUB}");
        return None;
    }
    let kernel = kernel();
    let command_line = format!("root=UUID={ROOT_UUID} ro\0");
    let mut sections: Vec<(&str, &[u8])> = vec![
        (".osrel", b"ID=debian\nPRETTY_NAME=\"Test OS\"\n"),
        (".uname", VERSION.as_bytes()),
        (".cmdline", command_line.as_bytes()),
    ];
    sections.extend(more);
    sections.extend([(".initrd", initrd), (".linux", &kernel[..])]);
    let mut objcopy = Command::new("objcopy");
    // Behind everything that the stub has of its own.
    let mut address = 0x3_0000u64;
    for (name, content) in sections {
        let file = folder.join(format!("section{name}"));
        fs::write(&file, content).unwrap();
        objcopy
            .arg(format!("--add-section={name}={}", file.display()))
            .arg(format!("--change-section-vma={name}={address:#x}"));
        address = (address + content.len() as u64).next_multiple_of(0x1000);
    }
    let image = folder.join("unified.efi");
    judge(objcopy.arg(STUB).arg(&image));
    Some(fs::read(image).unwrap())
}
