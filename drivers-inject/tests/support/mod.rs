//! Kernel module trees and initramfs files made for a test, and the foreign tools that judge.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::type_complexity
)]

pub mod guest;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The kernel version of every made tree.
pub const VERSION: &str = "6.1.0-test";

/// Whether all `tools` are installed; says which is not.
pub fn have(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let there = find(tool).is_some();
        if !there {
            println!("skipped: needs {tool}");
        }
        there
    })
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/sbin", "/usr/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(tool))
        .find(|file| file.exists())
}

/// Runs `tool` with `input`; its output, whatever its exit code.
pub fn run(tool: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(find(tool).unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// As [`run`], and the tool must be content.
pub fn ask(tool: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = run(tool, arguments, input);
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A kernel module as `depmod` sees one.
pub struct Module {
    pub path: &'static str,
    pub info: &'static [&'static str],
    pub exports: &'static [&'static str],
    pub uses: &'static [&'static str],
}

/// A small copy of the virtio part of a Debian 12 kernel, with what its initramfs has for VMware.
pub const MODULES: &[Module] = &[
    Module {
        path: "kernel/drivers/virtio/virtio.ko",
        info: &["license=GPL", "alias=virtio-core"],
        exports: &["register_virtio_driver", "virtio_reset_device"],
        uses: &[],
    },
    Module {
        path: "kernel/drivers/virtio/virtio_ring.ko",
        info: &["license=GPL"],
        exports: &["virtqueue_add_sgs"],
        uses: &[],
    },
    Module {
        path: "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
        info: &["license=GPL"],
        exports: &["vp_modern_probe"],
        uses: &[],
    },
    Module {
        path: "kernel/drivers/virtio/virtio_pci.ko",
        info: &["license=GPL", "alias=pci:v00001AF4d*sv*sd*bc*sc*i*"],
        exports: &[],
        uses: &[
            "register_virtio_driver",
            "virtqueue_add_sgs",
            "vp_modern_probe",
        ],
    },
    Module {
        path: "kernel/drivers/block/virtio_blk.ko",
        info: &["license=GPL", "alias=virtio:d00000002v*"],
        exports: &[],
        uses: &["register_virtio_driver", "virtqueue_add_sgs"],
    },
    Module {
        path: "kernel/drivers/scsi/scsi_mod.ko",
        info: &["license=GPL"],
        exports: &["scsi_add_host"],
        uses: &[],
    },
    Module {
        path: "kernel/drivers/scsi/sd_mod.ko",
        info: &["license=GPL", "alias=scsi:t-0x00*", "alias=block-major-8-*"],
        exports: &[],
        uses: &["scsi_add_host"],
    },
    Module {
        path: "kernel/drivers/scsi/virtio_scsi.ko",
        info: &["license=GPL", "alias=virtio:d00000008v*"],
        exports: &[],
        uses: &[
            "register_virtio_driver",
            "virtqueue_add_sgs",
            "scsi_add_host",
        ],
    },
    Module {
        path: "kernel/net/core/failover.ko",
        info: &["license=GPL"],
        exports: &["failover_register"],
        uses: &[],
    },
    Module {
        path: "kernel/drivers/net/virtio_net.ko",
        info: &[
            "license=GPL",
            "alias=virtio:d00000001v*",
            "softdep=pre: crc-test",
        ],
        exports: &[],
        uses: &[
            "failover_register",
            "register_virtio_driver",
            "virtqueue_add_sgs",
        ],
    },
    Module {
        path: "kernel/lib/crc-test.ko",
        info: &[
            "license=GPL",
            "alias=crypto-crc-test",
            "alias=acpi*:VMW0001:*",
        ],
        exports: &["crc_test"],
        uses: &[],
    },
    Module {
        path: "kernel/drivers/scsi/vmw_pvscsi.ko",
        info: &[
            "license=GPL",
            "alias=pci:v000015ADd000007C0sv*sd*bc*sc*i*",
            "alias=of:N*T*Cvmware,pvscsi-[a-c]",
        ],
        exports: &[],
        uses: &["scsi_add_host"],
    },
];

/// A relocatable ELF file with a `.modinfo`, the exported and the undefined symbols: all of a module
/// that `depmod` reads.
pub fn elf(module: &Module) -> Vec<u8> {
    let name = module
        .path
        .rsplit('/')
        .next()
        .unwrap()
        .trim_end_matches(".ko");
    let mut modinfo = Vec::new();
    for info in module.info {
        modinfo.extend(info.bytes());
        modinfo.push(0);
    }
    modinfo.extend(format!("name={}\0", name.replace('-', "_")).bytes());
    let mut exported = Vec::new();
    for symbol in module.exports {
        exported.extend(symbol.bytes());
        exported.push(0);
    }
    let mut strings = vec![0u8];
    let mut symbols = vec![0u8; 24];
    for symbol in module.uses {
        symbols.extend((strings.len() as u32).to_le_bytes());
        symbols.extend([0x10, 0]); // global, no type
        symbols.extend(0u16.to_le_bytes()); // SHN_UNDEF
        symbols.extend([0; 16]);
        strings.extend(symbol.bytes());
        strings.push(0);
    }
    // Some code, so that modules have a size and neither compress to nothing nor not at all.
    let mut text = Vec::new();
    let mut state = name
        .bytes()
        .fold(7u32, |a, b| a.wrapping_mul(31) + u32::from(b));
    for _ in 0..2000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend([0x48, 0x8b, (state >> 28) as u8, 0x90]);
    }
    let names = b"\0.modinfo\0__ksymtab_strings\0.symtab\0.strtab\0.shstrtab\0.text\0";
    let name_of = |name: &str| {
        names
            .windows(name.len() + 2)
            .position(|window| {
                window[0] == 0
                    && &window[1..=name.len()] == name.as_bytes()
                    && window[name.len() + 1] == 0
            })
            .unwrap() as u32
            + 1
    };
    // name, type, flags, link, entry size, content
    let sections: [(&str, u32, u64, u32, u64, &[u8]); 6] = [
        (".text", 1, 6, 0, 0, &text),
        (".modinfo", 1, 2, 0, 0, &modinfo),
        ("__ksymtab_strings", 1, 2, 0, 1, &exported),
        (".symtab", 2, 0, 5, 24, &symbols),
        (".strtab", 3, 0, 0, 0, &strings),
        (".shstrtab", 3, 0, 0, 0, names),
    ];
    let mut body = Vec::new();
    let mut headers = vec![0u8; 64];
    for (name, kind, flags, link, entry, content) in sections {
        body.resize(body.len().next_multiple_of(8), 0);
        headers.extend(name_of(name).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [flags, 0, 64 + body.len() as u64, content.len() as u64] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend(1u32.to_le_bytes());
        headers.extend(1u64.to_le_bytes());
        headers.extend(entry.to_le_bytes());
        body.extend(content);
    }
    body.resize(body.len().next_multiple_of(8), 0);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(1u16.to_le_bytes()); // relocatable
    file.extend(62u16.to_le_bytes()); // x86-64
    file.extend(1u32.to_le_bytes());
    file.extend([0; 16]);
    file.extend((64 + body.len() as u64).to_le_bytes());
    file.extend([0; 4]);
    for half in [64u16, 0, 0, 64, 7, 6] {
        file.extend(half.to_le_bytes());
    }
    file.extend(body);
    file.extend(headers);
    file
}

/// Writes [`MODULES`] (those that `keep` wants) below `root`/`lib`/modules and lets `depmod` index
/// them. `suffix` compresses: `""`, `.xz`, `.gz`, `.zst`.
pub fn tree(root: &Path, lib: &str, suffix: &str, keep: &dyn Fn(&str) -> bool) -> PathBuf {
    let folder = root.join(lib).join("modules").join(VERSION);
    fs::create_dir_all(&folder).unwrap();
    for module in MODULES.iter().filter(|module| keep(module.path)) {
        let content = elf(module);
        let content = match suffix {
            ".xz" => ask("xz", &["--check=crc32", "-c"], &content),
            ".gz" => ask("gzip", &["-c"], &content),
            ".zst" => ask("zstd", &["-qc"], &content),
            _ => content,
        };
        let file = folder.join(format!("{}{suffix}", module.path));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    fs::write(
        folder.join("modules.builtin"),
        "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/virtio_console.ko\n",
    )
    .unwrap();
    fs::write(folder.join("modules.order"), "").unwrap();
    depmod(root);
    folder
}

/// Lets `depmod` index the modules below `root`.
pub fn depmod(root: &Path) {
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
    }
    ask("depmod", &["-b", root.to_str().unwrap(), VERSION], b"");
}

/// What `modprobe` would load for `alias` with the module directory below `root`: file names, in
/// order.
pub fn modprobe(root: &Path, alias: &str) -> Vec<String> {
    let root = root.to_str().unwrap();
    let output = run(
        "modprobe",
        &[
            "-C",
            "/dev/null",
            "-d",
            root,
            "-S",
            VERSION,
            "--show-depends",
            alias,
        ],
        b"",
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("insmod "))
        .map(|line| line.trim().rsplit('/').next().unwrap().to_owned())
        .collect()
}

/// `cpio -o -H newc` of everything below `root`.
pub fn pack(root: &Path) -> Vec<u8> {
    let script = "find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -R 0:0 -o -H newc";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

/// All archives of an initramfs, one after the other.
pub fn plain(initramfs: &rehost_inspect::initramfs::Initramfs) -> Vec<u8> {
    let mut all = Vec::new();
    for index in 0..initramfs.segments().len() {
        all.extend_from_slice(initramfs.plain(index));
        all.resize(all.len().next_multiple_of(4), 0);
    }
    all
}

/// `cpio -i` of one archive or several below `root`, as the kernel does it: later files win.
pub fn unpack(root: &Path, mut plain: &[u8]) {
    fs::create_dir_all(root).unwrap();
    while !plain.is_empty() {
        let end = archive_len(plain);
        let mut child = Command::new("cpio")
            .args(["--quiet", "-idu", "--no-absolute-filenames"])
            .current_dir(root)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&plain[..end])
            .unwrap();
        assert!(child.wait().unwrap().success());
        let rest = &plain[end..];
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
        plain = &rest[zeroes..];
    }
}

/// Bytes of the first archive, its trailer included: by its headers, because programs hold the word
/// `TRAILER!!!` too.
fn archive_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let field = |index: usize| {
            let from = at + 6 + 8 * index;
            let digits = std::str::from_utf8(&bytes[from..from + 8]).unwrap();
            usize::from_str_radix(digits, 16).unwrap()
        };
        let name = at + 110;
        let body = (name + field(11)).next_multiple_of(4);
        let next = (body + field(6)).next_multiple_of(4);
        if bytes[name..].starts_with(b"TRAILER!!!\0") {
            return next;
        }
        at = next;
    }
}

/// Copies `range` of a disk to a file, without its zeroes.
pub fn save(disk: &dyn rehost_block::Disk, range: std::ops::Range<u64>, path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(range.end - range.start).unwrap();
    let mut at = range.start;
    let mut buffer = vec![0; 1 << 20];
    while at < range.end {
        let located = disk.locate(at, (range.end - at).min(1 << 20)).unwrap();
        if !matches!(located.run, rehost_block::Run::Zero) {
            let part = &mut buffer[..usize::try_from(located.len).unwrap()];
            disk.read_at(part, at).unwrap();
            if !rehost_block::is_zero(part) {
                file.write_all_at(part, at - range.start).unwrap();
            }
        }
        at += located.len;
    }
}
