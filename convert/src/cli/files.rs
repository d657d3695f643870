//! `rehost ls` and `rehost cat`: directories and files inside an image.

use anyhow::Result;
use rehost_block::Error;
use rehost_fs::{Attributes, FileKind};
use serde::Serialize;

use super::args::{Cat, Ls};
use super::output::Bulk;
use super::walk::{Walk, human, tell};
use super::{Answer, output};
use crate::browse::{Browse, Entry, Found, Listing};

/// One line of `ls --json`.
#[derive(Serialize)]
struct Listed<'a> {
    name: String,
    /// The name in hex, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base16: Option<String>,
    #[serde(flatten)]
    attributes: &'a Attributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// `cat --json`.
#[derive(Serialize)]
struct Content<'a> {
    path: &'a std::path::Path,
    #[serde(flatten)]
    attributes: Attributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base16: Option<String>,
}

/// Lists a directory, or one file.
pub(super) fn ls(args: &Ls) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(&args.image, &args.place.more)?;
    let browse = Browse::open(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(&args.image))?;
    if args.recursive {
        let top = browse.find(&args.path)?;
        if top.fs.attributes(top.inode)?.kind == FileKind::Directory {
            return whole_tree(args, &browse, &top);
        }
    }
    let Listing { entries, failed } = browse.list(&args.path)?;
    if args.json {
        let listed: Vec<Listed<'_>> = entries.iter().map(listed).collect();
        output::json(&listed)?;
    } else {
        let mut out = Bulk::new()?;
        for entry in &entries {
            line(&mut out, args, entry)?;
        }
        out.finish()?;
    }
    tell(failed)?;
    Ok(Answer::Done)
}

/// Lists everything below a directory: each directory before what is in it.
fn whole_tree(args: &Ls, browse: &Browse, top: &Found) -> Result<Answer> {
    let mut walk = Walk::new(browse);
    let mut out = Bulk::new()?;
    let mut first = true;
    // The directories on the way down, each with what is still to come of it.
    let mut left = vec![(Vec::new(), walk.go_into(top, 1)?.into_iter())];
    // Ends because the walk goes into no directory twice.
    while let Some((folder, entries)) = left.last_mut() {
        let Some(mut entry) = entries.next() else {
            left.pop();
            continue;
        };
        entry.name = [folder.as_slice(), &entry.name].concat();
        if args.json {
            out.raw(if first { b"[\n" } else { b",\n" })?;
            out.json(&listed(&entry))?;
        } else {
            line(&mut out, args, &entry)?;
        }
        first = false;
        if entry.attributes.kind == FileKind::Directory {
            let below = walk.go_into(&entry.found, left.len() + 1)?;
            entry.name.push(b'/');
            left.push((entry.name, below.into_iter()));
        }
    }
    if args.json {
        out.raw(if first { b"[]\n" } else { b"\n]\n" })?;
    }
    out.finish()?;
    walk.end()?;
    Ok(Answer::Done)
}

/// One line of a listing.
fn line(out: &mut Bulk, args: &Ls, entry: &Entry) -> Result<()> {
    if args.long {
        let size = if args.human_readable {
            human
        } else {
            |size: u64| size.to_string()
        };
        out.raw(long(entry, size).as_bytes())?;
    }
    out.name(&entry.name)?;
    if let Some(link) = entry.link.as_ref().filter(|_| args.long) {
        out.raw(b" -> ")?;
        out.name(link)?;
    }
    out.raw(b"\n")
}

/// Prints a file.
pub(super) fn cat(args: &Cat) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(&args.image, &args.place.more)?;
    let browse = Browse::open(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(&args.image))?;
    let file = browse.find(&args.path)?;
    let attributes = file.fs.attributes(file.inode)?;
    if attributes.kind != FileKind::Regular {
        return Err(Error::usage("is not a regular file")
            .in_file(&args.path)
            .into());
    }
    if args.json {
        let content = rehost_fs::path::read_inode(&*file.fs, file.inode)?;
        let (text, base16) = match String::from_utf8(content) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(output::hex(error.as_bytes()))),
        };
        output::json(&Content {
            path: &args.path,
            attributes,
            text,
            base16,
        })?;
    } else {
        let mut out = Bulk::new()?;
        file.read_in_pieces(|piece| out.raw(piece))?;
        out.finish()?;
    }
    Ok(Answer::Done)
}

fn listed(entry: &Entry) -> Listed<'_> {
    let (name, name_base16) = output::both(&entry.name);
    Listed {
        name,
        name_base16,
        attributes: &entry.attributes,
        link: entry
            .link
            .as_deref()
            .map(|link| String::from_utf8_lossy(link).into_owned()),
    }
}

/// Everything of an `ls -l` line but the name.
fn long(entry: &Entry, shown: fn(u64) -> String) -> String {
    let at = &entry.attributes;
    let size = match at.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => shown(at.size),
    };
    let time = jiff::Timestamp::from_second(at.mtime).map_or_else(
        |_| at.mtime.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M").to_string(),
    );
    format!(
        "{} {:>3} {:>5} {:>5} {size:>11} {time} ",
        mode(at),
        at.links,
        at.uid,
        at.gid
    )
}

/// `-rw-r--r--`, with the set-id and sticky bits as `ls` shows them.
fn mode(at: &Attributes) -> String {
    let kind = match at.kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = at.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (at.mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_ls_shows_them() {
        let shown = |kind, bits| {
            mode(&Attributes {
                kind,
                mode: bits,
                uid: 0,
                gid: 0,
                size: 0,
                allocated: 0,
                links: 1,
                mtime: 0,
                device: None,
            })
        };
        assert_eq!(shown(FileKind::Regular, 0o4755), "-rwsr-xr-x");
        assert_eq!(shown(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(shown(FileKind::Regular, 0o2644), "-rw-r-Sr--");
    }
}
