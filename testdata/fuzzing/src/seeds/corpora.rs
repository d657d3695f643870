//! Seeds that others made: the small files of the corpora (`REHOST_CORPORA`).

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Seed;
use crate::{Target, expand};

/// Stored files up to this length are looked at, in bytes.
const MOST_STORED: u64 = 1 << 20;

/// Plain bytes of one at most.
const MOST_PLAIN: u64 = 16 << 20;

/// Packed seeds up to this length are worth mutating, in bytes.
const MOST_PACKED: usize = 128 << 10;

/// MD's magic number.
const MD: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];

pub(super) fn seeds(target: Target) -> Vec<Seed> {
    let Some(root) = std::env::var_os("REHOST_CORPORA").map(PathBuf::from) else {
        return Vec::new();
    };
    let mut seeds = Vec::new();
    let mut waiting = vec![root];
    // Ends because links are not followed.
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                waiting.push(path);
            } else if meta.is_file() && meta.len() <= MOST_STORED {
                seeds.extend(seed(target, &path));
            }
        }
    }
    seeds
}

/// The file at `path`, unpacked, when it is one for `target`.
fn seed(target: Target, path: &Path) -> Option<Seed> {
    let suffix = path.extension().and_then(OsStr::to_str)?;
    let packed = matches!(suffix, "gz" | "bz2");
    let name = if packed {
        path.file_stem()?
    } else {
        path.file_name()?
    };
    let name = name.to_str()?;
    if target == Target::Wrapper {
        let file = packed.then(|| fs::read(path).ok()).flatten()?;
        return Seed::new(path.file_name()?.to_str()?, &file)
            .filter(|seed| seed.bytes.len() < 4096);
    }
    let wanted = match target {
        Target::Ext4 => name == "image" || name.contains("ext"),
        Target::Journal => path.to_str()?.contains("/j_"),
        Target::Lvm | Target::Thin | Target::Modules | Target::Guest | Target::Initramfs => false,
        Target::Xfs => name == "image" || name.contains("xfs"),
        Target::Vmx => name.ends_with(".vmx"),
        _ => true,
    };
    if !wanted {
        return None;
    }
    let file = fs::File::open(path).ok()?;
    let reader: Box<dyn Read> = match suffix {
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
        "bz2" => Box::new(bzip2::read::MultiBzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut plain = Vec::new();
    reader.take(MOST_PLAIN + 1).read_to_end(&mut plain).ok()?;
    let begins = |magic: &[u8]| plain.starts_with(magic);
    let fits = match target {
        Target::Qcow2 => begins(b"QFI\xfb\0\0\0\x02") || begins(b"QFI\xfb\0\0\0\x03"),
        Target::Qcow => begins(b"QFI\xfb\0\0\0\x01"),
        Target::Vmdk => begins(b"KDMV") || begins(b"# Disk Desc"),
        Target::Cowd => begins(b"COWD"),
        Target::Vhd => begins(b"conectix"),
        Target::Vhdx => begins(b"vhdxfile"),
        Target::Vdi => plain.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]),
        Target::Parallels => begins(b"WithoutFreeSpace") || begins(b"WithouFreSpacExt"),
        Target::Luks => begins(b"LUKS\xba\xbe"),
        Target::Iso9660 => plain.get(32_769..32_774) == Some(b"CD001"),
        Target::Squashfs => begins(b"hsqs"),
        Target::Btrfs => plain.get(65_600..65_608) == Some(b"_BHRfS_M"),
        Target::Ext4 | Target::Journal => plain.get(1080..1082) == Some(&[0x53, 0xef]),
        Target::Fat => begins(b"\xeb") && plain.get(510..512) == Some(&[0x55, 0xaa]),
        Target::Md => plain.len() > 0x1_0000 && plain.windows(4).any(|word| word == MD),
        Target::Stack => plain.get(510..512) == Some(&[0x55, 0xaa]),
        Target::Xfs => begins(b"XFSB"),
        Target::Partitions => plain.get(510..512) == Some(&[0x55, 0xaa]),
        Target::Vmx => true,
        _ => false,
    };
    if matches!(target, Target::Md | Target::Stack) {
        // One disk: the last byte says so.
        plain.push(0);
    }
    let folder = path.parent()?.file_name()?.to_str()?;
    let seed = Seed::new(format!("{folder}-{name}"), &plain).filter(|_| fits)?;
    debug_assert!(expand(&seed.bytes) == plain);
    (seed.bytes.len() <= MOST_PACKED).then_some(seed)
}
