//! Prints everything that a filesystem holds, a line a file: for comparing two readers of it.
//!
//! `walk IMAGE [VOLUME]` reads the filesystem of a volume as `rehost ls --volume` names it (0, the whole
//! disk, if not given) of a disk image with this program's own reader; `walk --directory DIRECTORY` reads a directory
//! through the kernel. `scripts/walk-compare` compares the two.
//!
//! Columns, parted by tabs: path, type, mode, owner, group, names, size, bytes on the disk, device, time of the last
//! change, target of a link, SHA-256, extended attributes. What does not mean the same to every
//! reader is `-`: names and size of directories. Left out are `system.*` attributes, which the kernel makes up
//! from others, and `trusted.SGI_ACL_*`, from which it makes them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use rehost::browse::{At, Browse, Found};
use rehost::guest::{ImageOptions, open_image};
use rehost_block::{Error, Result};
use rehost_fs::{Attributes, FileKind};
use sha2::{Digest, Sha256};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = match words.as_slice() {
        [flag, directory] if flag == "--directory" => {
            directory_lines(Path::new(directory), &mut out)
        }
        [image] => image_lines(Path::new(image), "0", &mut out),
        [image, volume] => image_lines(Path::new(image), &volume.to_string_lossy(), &mut out),
        _ => Err(Error::usage(
            "usage: walk IMAGE [VOLUME] | walk --directory DIRECTORY",
        )),
    };
    let printed = printed.and_then(|()| {
        out.flush()
            .map_err(|error| Error::io("cannot write", error))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walk: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What a line says besides the path.
struct Line {
    attributes: Attributes,
    link: Option<Vec<u8>>,
    sha256: Option<[u8; 32]>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Line {
    fn print(mut self, path: &[u8], out: &mut impl Write) -> Result<()> {
        let at = &self.attributes;
        let (kind, is_directory) = match at.kind {
            FileKind::Regular => ('f', false),
            FileKind::Directory => ('d', true),
            FileKind::Symlink => ('l', false),
            FileKind::CharDevice => ('c', false),
            FileKind::BlockDevice => ('b', false),
            FileKind::Fifo => ('p', false),
            FileKind::Socket => ('s', false),
        };
        self.xattrs.retain(|(name, _)| {
            !name.starts_with(b"system.") && !name.starts_with(b"trusted.SGI_ACL_")
        });
        self.xattrs.sort();
        let xattrs: Vec<String> = self
            .xattrs
            .iter()
            .map(|(name, value)| format!("{}={}", shown(name), hex(value)))
            .collect();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        writeln!(
            out,
            "{}\t{kind}\t{:04o}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            shown(path),
            at.mode,
            at.uid,
            at.gid,
            or_dash((!is_directory).then(|| at.links.to_string())),
            or_dash((at.kind == FileKind::Regular).then(|| at.size.to_string())),
            at.allocated,
            or_dash(at.device.map(|(major, minor)| format!("{major}:{minor}"))),
            at.mtime,
            or_dash(self.link.as_deref().map(shown)),
            or_dash(self.sha256.map(|sum| hex(&sum))),
            or_dash((!xattrs.is_empty()).then(|| xattrs.join(","))),
        )
        .map_err(|error| Error::io("cannot write", error))
    }
}

/// Bytes as text of one word: what is not plain ASCII, a comma and a backslash as `\xNN`.
fn shown(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'\\' | b',' | b'=') {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The filesystem of an image, by this program's reader.
fn image_lines(image: &Path, volume: &str, out: &mut impl Write) -> Result<()> {
    let image = open_image(image, &ImageOptions::default())?;
    let browse = Browse::open(&[image.disk()], &[], At::volume(volume))?;
    let top = browse.find(Path::new("/"))?;
    of_image(&top)?.print(b".", out)?;
    let mut left = vec![top];
    let mut entered = HashSet::new();
    // Ends because no directory is entered twice.
    while let Some(directory) = left.pop() {
        let at = OsStr::from_bytes(&directory.path);
        if !entered.insert(directory.inode) {
            return Err(Error::corrupt("directory has two places in the tree").in_file(at));
        }
        let listing = browse.children(&directory)?;
        if let Some(error) = listing.failed.into_iter().next() {
            return Err(error);
        }
        for entry in listing.entries {
            let path = &entry.found.path;
            of_image(&entry.found)
                .map_err(|error| error.in_file(OsStr::from_bytes(path)))?
                .print(path.strip_prefix(b"/").unwrap_or(path), out)?;
            if entry.attributes.kind == FileKind::Directory {
                left.push(entry.found);
            }
        }
    }
    Ok(())
}

fn of_image(file: &Found) -> Result<Line> {
    let attributes = file.fs.attributes(file.inode)?;
    let link = match attributes.kind {
        FileKind::Symlink => Some(file.fs.read_link(file.inode)?),
        _ => None,
    };
    let sha256 = match attributes.kind {
        FileKind::Regular => {
            let mut sum = Sha256::new();
            file.read_in_pieces(|piece| {
                sum.update(piece);
                Ok::<(), Error>(())
            })?;
            Some(sum.finalize().into())
        }
        _ => None,
    };
    Ok(Line {
        attributes,
        link,
        sha256,
        xattrs: file.fs.xattrs(file.inode)?,
    })
}

/// A directory on the host, by the kernel; other mounts below it are not entered.
fn directory_lines(top: &Path, out: &mut impl Write) -> Result<()> {
    let about = |path: &Path| {
        fs::symlink_metadata(path)
            .map_err(|error| Error::io("cannot be examined", error).in_file(path))
    };
    let device = about(top)?.dev();
    let mut left = vec![top.to_owned()];
    // Ends because the kernel's directories are a tree.
    while let Some(path) = left.pop() {
        let meta = about(&path)?;
        let name = path.strip_prefix(top).unwrap_or(&path).as_os_str();
        let name = if name.is_empty() {
            OsStr::new(".")
        } else {
            name
        };
        of_host(&path, &meta)
            .map_err(|error| Error::io("cannot be read", error).in_file(&path))?
            .print(name.as_bytes(), out)?;
        if meta.is_dir() && meta.dev() == device {
            let names = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let names = names.map_err(|error| Error::io("cannot be read", error).in_file(&path))?;
            left.extend(names.iter().map(fs::DirEntry::path));
        }
    }
    Ok(())
}

fn of_host(path: &Path, meta: &Metadata) -> io::Result<Line> {
    let kind = match meta.mode() >> 12 {
        0x1 => FileKind::Fifo,
        0x2 => FileKind::CharDevice,
        0x4 => FileKind::Directory,
        0x6 => FileKind::BlockDevice,
        0xa => FileKind::Symlink,
        0xc => FileKind::Socket,
        _ => FileKind::Regular,
    };
    let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice).then(|| {
        (
            rustix::fs::major(meta.rdev()),
            rustix::fs::minor(meta.rdev()),
        )
    });
    let link = match kind {
        FileKind::Symlink => Some(fs::read_link(path)?.into_os_string().into_encoded_bytes()),
        _ => None,
    };
    let sha256 = match kind {
        FileKind::Regular => Some(sha256_of(File::open(path)?)?),
        _ => None,
    };
    Ok(Line {
        attributes: Attributes {
            kind,
            mode: (meta.mode() & 0o7777) as u16,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size(),
            allocated: meta.blocks().saturating_mul(512),
            links: u32::try_from(meta.nlink()).unwrap_or(u32::MAX),
            mtime: meta.mtime(),
            device,
        },
        link,
        sha256,
        xattrs: xattrs_of(path)?,
    })
}

fn sha256_of(mut file: File) -> io::Result<[u8; 32]> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    // Ends with the file.
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(sum.finalize().into()),
            len => sum.update(&piece[..len]),
        }
    }
}

fn xattrs_of(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // The kernel's limit for a list of names and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
    const MOST: usize = 64 << 10;
    let mut names = vec![0; MOST];
    let len = match rustix::fs::llistxattr(path, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        listed => listed?,
    };
    names.truncate(len);
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; MOST];
            let len = rustix::fs::lgetxattr(path, name, &mut value)?;
            value.truncate(len);
            Ok((name.to_vec(), value))
        })
        .collect()
}
