//! `rehost cp`: files out of an image, or into a new copy of one.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use rehost_block::{Disk, Error, File, Overlay, Storage, StorageMut};
use rehost_fs::FileKind;
use serde::Serialize;

use super::args::Cp;
use super::convert::{explained, summary, writing};
use super::{Answer, output};
use crate::browse::Browse;
use crate::edit::put_file;
use crate::guest::{look, open_image};
use crate::unfinished::{Existing, Unfinished};
use crate::voice::bytes;
use crate::write::write_image;

/// Directories inside one another that are copied. Linux's own longest path has fewer.
const DEEPEST: usize = 2048;

/// Largest file that is copied into an image. Ours: it is held in memory.
const MOST_IN: u64 = 1 << 30;

/// The result as JSON.
#[derive(Serialize)]
struct Copied {
    files: u64,
    directories: u64,
    links: u64,
    skipped: Vec<PathBuf>,
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
        (None, Some((image, path))) => copy_in(args, &image, &path),
        (Some(_), Some(_)) => {
            bail!("copying from image to image takes two steps, through a folder")
        }
        (None, None) => bail!("neither side names an image; write IMAGE:/PATH"),
    }
}

fn copy_out(args: &Cp, name: &Path, path: &Path) -> Result<Answer> {
    let image = open_image(name, args.opening.format, &args.opening.allow_paths)?;
    let browse = Browse::open(&image, args.place.volume).map_err(|error| error.in_file(name))?;
    let mut target = PathBuf::from(&args.target);
    if target.is_dir() {
        target.push(path.file_name().unwrap_or(OsStr::new("root")));
    }
    let mut copied = Copied {
        files: 0,
        directories: 0,
        links: 0,
        skipped: Vec::new(),
    };
    let found = browse.find(path)?;
    if found.fs.attributes(found.inode)?.kind == FileKind::Directory && !args.recursive {
        return Err(Error::usage("is a directory")
            .in_file(path)
            .hint("copy it with -r")
            .into());
    }
    copy_tree(
        &browse,
        path,
        &target,
        Existing::from_force(args.writing.force),
        &mut copied,
        0,
    )?;
    let voice = args.reporting.voice();
    for skipped in &copied.skipped {
        voice.step(format_args!(
            "Skipped {}: neither file, directory nor link.",
            skipped.display()
        ));
    }
    voice.step(format_args!(
        "Copied {} files, {} folders and {} links.",
        copied.files, copied.directories, copied.links
    ));
    if args.reporting.json {
        output::json(&copied)?;
    }
    Ok(Answer::Done)
}

fn copy_tree(
    browse: &Browse,
    path: &Path,
    target: &Path,
    existing: Existing,
    copied: &mut Copied,
    depth: usize,
) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::corrupt("directories are nested without end")
            .in_file(path)
            .into());
    }
    let found = if depth == 0 {
        browse.find(path)?
    } else {
        browse.find_link(path)?
    };
    let attributes = found.fs.attributes(found.inode)?;
    match attributes.kind {
        FileKind::Regular => {
            let (unfinished, file) = Unfinished::create(target, existing)?;
            let mut at = 0;
            found.read_in_pieces(|piece| {
                file.write_at(piece, at)?;
                at += piece.len() as u64;
                Ok::<_, Error>(())
            })?;
            // Not the set-id bits: what a guest trusts to run as root is nothing for this host.
            let mode = fs::Permissions::from_mode(u32::from(attributes.mode) & 0o777);
            file.as_file()
                .map_or(Ok(()), |file| file.set_permissions(mode))
                .map_err(|error| Error::io("cannot set its mode", error).in_file(target))?;
            unfinished.give_name()?;
            copied.files += 1;
        }
        FileKind::Directory => {
            make_folder(target)?;
            copied.directories += 1;
            for entry in browse.list(path)? {
                // A name with a slash or `..` in it would leave the target folder.
                if entry.name.contains(&b'/') || entry.name == b".." || entry.name == b"." {
                    return Err(Error::corrupt("a directory holds an impossible name")
                        .in_file(path)
                        .into());
                }
                let name = OsStr::from_bytes(&entry.name);
                copy_tree(
                    browse,
                    &path.join(name),
                    &target.join(name),
                    existing,
                    copied,
                    depth + 1,
                )?;
            }
        }
        FileKind::Symlink => {
            let link = found.fs.read_link(found.inode)?;
            make_link(OsStr::from_bytes(&link), target, existing)?;
            copied.links += 1;
        }
        _ => copied.skipped.push(path.to_owned()),
    }
    Ok(())
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

/// A file of this host, as a whole: the filesystem's writer takes it so.
fn read_source(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.size() > MOST_IN {
        return Err(Error::unsupported(format!(
            "a file of {} cannot be copied in",
            bytes(file.size())
        ))
        .in_file(path)
        .hint(format!("files of up to {} can", bytes(MOST_IN)))
        .into());
    }
    let mut content = vec![0; usize::try_from(file.size())?];
    file.read_at(&mut content, 0)?;
    Ok(content)
}

fn copy_in(args: &Cp, name: &Path, path: &Path) -> Result<Answer> {
    if explained(&args.writing, args.output.as_deref())? {
        return Ok(Answer::Done);
    }
    let voice = args.reporting.voice();
    let Some(output) = &args.output else {
        return Err(Error::usage("an image is never changed in place")
            .in_file(name)
            .hint("name the image to write with --output FILE")
            .into());
    };
    let content = read_source(Path::new(&args.source))?;
    let image = open_image(name, args.opening.format, &args.opening.allow_paths)?;
    let store = Arc::new(File::temporary(std::env::temp_dir())?);
    let overlay = Arc::new(Overlay::new(image.disk(), store));
    let guest = look(&[Arc::clone(&overlay) as Arc<dyn Disk>])?;
    put_file(
        &guest,
        std::slice::from_ref(&overlay),
        args.place.volume,
        path,
        &content,
    )?;
    let writing = writing(&args.writing, output, image.files())?;
    voice.step(format_args!(
        "Writing {} with {} in it.",
        output.display(),
        path.display()
    ));
    let outcome = write_image(&*overlay, output, &writing, voice)?;
    voice.step(summary(&outcome));
    if args.reporting.json {
        output::json(&outcome)?;
    }
    Ok(Answer::Done)
}
