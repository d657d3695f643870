//! `rehost cp`: files out of an image, or into one.

mod into;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rehost_block::{Error, Storage, StorageMut, is_zero};
use rehost_fs::FileKind;
use serde::Serialize;

use super::args::Cp;
use super::walk::{DEEPEST, tell};
use super::{Answer, output};
use crate::browse::{Browse, Found, Listing};
use crate::unfinished::{Existing, Unfinished};
use crate::voice::Voice;

/// The result as JSON.
#[derive(Debug, Default, Serialize)]
struct Copied {
    files: u64,
    directories: u64,
    links: u64,
    skipped: Vec<PathBuf>,
}

impl Copied {
    fn tell(&self, voice: Voice) {
        for skipped in &self.skipped {
            voice.step(format_args!(
                "Skipped {}: neither file, directory nor link.",
                skipped.display()
            ));
        }
        voice.step(format_args!("Copied {self}."));
    }
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.files, "file"),
            (self.directories, "folder"),
            (self.links, "link"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, what)| *count > 0 || *what == "file")
            .map(|(count, what)| match count {
                1 => format!("1 {what}"),
                _ => format!("{count} {what}s"),
            })
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// `IMAGE:/PATH`, when the text is one.
fn inside(text: &str) -> Option<(PathBuf, PathBuf)> {
    let (image, path) = text.split_once(":/")?;
    (!image.is_empty()).then(|| (PathBuf::from(image), Path::new("/").join(path)))
}

/// Runs the command.
pub(super) fn run(args: &Cp) -> Result<Answer> {
    match (inside(&args.source), inside(&args.target)) {
        (Some((image, path)), None) => copy_out(args, &image, &path),
        (None, Some((image, path))) => into::copy(args, &image, &path),
        (Some(_), Some(_)) => {
            bail!("copying from image to image takes two steps, through a folder")
        }
        (None, None) => bail!("neither side names an image; write IMAGE:/PATH"),
    }
}

fn copy_out(args: &Cp, name: &Path, path: &Path) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(name, &args.place.more)?;
    let browse = Browse::open(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(name))?;
    let mut target = PathBuf::from(&args.target);
    if target.is_dir() {
        target.push(path.file_name().unwrap_or(OsStr::new("root")));
    }
    let found = browse.find(path)?;
    if found.fs.attributes(found.inode)?.kind == FileKind::Directory && !args.recursive {
        return Err(Error::usage("is a directory")
            .in_file(path)
            .hint("copy it with -r")
            .into());
    }
    let mut copy = Copy {
        browse: &browse,
        existing: Existing::from_force(args.writing.force),
        copied: Copied::default(),
        failed: Vec::new(),
    };
    copy.tree(&found, &target, 0)?;
    copy.copied.tell(args.reporting.voice());
    if args.reporting.json {
        output::json(&copy.copied)?;
    }
    tell(copy.failed)?;
    Ok(Answer::Done)
}

/// A copy out of an image on its way.
struct Copy<'a> {
    browse: &'a Browse,
    existing: Existing,
    copied: Copied,
    /// Why others are missing.
    failed: Vec<Error>,
}

impl Copy<'_> {
    fn tree(&mut self, found: &Found, target: &Path, depth: usize) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(&found.path));
        if depth > DEEPEST {
            return Err(Error::corrupt("directories are nested without end")
                .in_file(path)
                .into());
        }
        let attributes = found.fs.attributes(found.inode)?;
        match attributes.kind {
            FileKind::Regular => self.file(found, attributes.mode, target)?,
            FileKind::Directory => {
                make_folder(target)?;
                self.copied.directories += 1;
                let Listing { entries, failed } = self.browse.children(found)?;
                self.failed.extend(failed);
                for entry in entries {
                    // A name with a slash or `..` in it would leave the target folder.
                    if entry.name.contains(&b'/') || matches!(&*entry.name, b"" | b"." | b"..") {
                        return Err(Error::corrupt("a directory holds an impossible name")
                            .in_file(path)
                            .into());
                    }
                    let name = OsStr::from_bytes(&entry.name);
                    self.tree(&entry.found, &target.join(name), depth + 1)?;
                }
            }
            FileKind::Symlink => {
                let link = found.fs.read_link(found.inode)?;
                make_link(OsStr::from_bytes(&link), target, self.existing)?;
                self.copied.links += 1;
            }
            _ => self.copied.skipped.push(path.to_owned()),
        }
        Ok(())
    }

    fn file(&mut self, found: &Found, mode: u16, target: &Path) -> Result<()> {
        let (unfinished, file) = Unfinished::create(target, self.existing)?;
        let mut at = 0;
        found.read_in_pieces(|piece| {
            // A stretch of zeroes stays a hole.
            if !is_zero(piece) {
                file.write_at(piece, at)?;
            }
            at += piece.len() as u64;
            Ok::<_, Error>(())
        })?;
        file.set_size(at)?;
        // Not the set-id bits: what a guest trusts to run as root is nothing for this host.
        let mode = fs::Permissions::from_mode(u32::from(mode) & 0o777);
        file.as_file()
            .map_or(Ok(()), |file| file.set_permissions(mode))
            .map_err(|error| Error::io("cannot set its mode", error).in_file(target))?;
        unfinished.give_name()?;
        self.copied.files += 1;
        Ok(())
    }
}

/// Makes a folder, or takes one that is there. A link to a folder is not one: an image copied here
/// before may have made it to lead this one's files elsewhere.
fn make_folder(target: &Path) -> Result<()> {
    match fs::create_dir(target) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let is_folder = target.symlink_metadata().is_ok_and(|meta| meta.is_dir());
            if is_folder {
                return Ok(());
            }
            Err(Error::usage("is in the way, and is no folder")
                .in_file(target)
                .hint("remove it or copy to another folder")
                .into())
        }
        made => made.map_err(|error| Error::io("cannot create", error).in_file(target).into()),
    }
}

fn make_link(link: &OsStr, target: &Path, existing: Existing) -> Result<()> {
    if let Ok(there) = target.symlink_metadata() {
        if existing == Existing::Keep || there.is_dir() {
            return Err(Error::usage("exists already")
                .in_file(target)
                .hint("copy to another folder, or replace files and links with --force")
                .into());
        }
        fs::remove_file(target)
            .map_err(|error| Error::io("cannot be replaced", error).in_file(target))?;
    }
    symlink(link, target).map_err(|error| {
        Error::io("cannot create the link", error)
            .in_file(target)
            .into()
    })
}
