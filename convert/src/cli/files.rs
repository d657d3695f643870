//! `rehost ls` and `rehost cat`: directories and files inside an image.

use anyhow::Result;
use rehost_block::Error;
use rehost_fs::{Attributes, FileKind};
use serde::Serialize;

use super::args::{Cat, Ls};
use super::{Answer, output};
use crate::browse::{Browse, Entry};
use crate::guest::open_image;

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
    let image = open_image(&args.image, args.opening.format, &args.opening.allow_paths)?;
    let browse =
        Browse::open(&image, args.place.volume).map_err(|error| error.in_file(&args.image))?;
    let mut entries = browse.list(&args.path)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if args.json {
        let listed: Vec<Listed<'_>> = entries.iter().map(listed).collect();
        output::json(&listed)?;
    } else {
        for entry in &entries {
            if args.long {
                output::raw(long(entry).as_bytes())?;
            }
            output::name(&entry.name)?;
            match &entry.link {
                Some(link) if args.long => output::name(&[b" -> ", &**link].concat())?,
                _ => {}
            }
            output::line("")?;
        }
    }
    Ok(Answer::Done)
}

/// Prints a file.
pub(super) fn cat(args: &Cat) -> Result<Answer> {
    let image = open_image(&args.image, args.opening.format, &args.opening.allow_paths)?;
    let browse =
        Browse::open(&image, args.place.volume).map_err(|error| error.in_file(&args.image))?;
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
            Err(error) => (None, Some(hex(error.as_bytes()))),
        };
        output::json(&Content {
            path: &args.path,
            attributes,
            text,
            base16,
        })?;
    } else {
        file.read_in_pieces(output::raw)?;
    }
    Ok(Answer::Done)
}

fn listed(entry: &Entry) -> Listed<'_> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Listed {
        name: lossy(&entry.name),
        name_base16: std::str::from_utf8(&entry.name)
            .is_err()
            .then(|| hex(&entry.name)),
        attributes: &entry.attributes,
        link: entry.link.as_deref().map(lossy),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Everything of an `ls -l` line but the name.
fn long(entry: &Entry) -> String {
    let at = &entry.attributes;
    let size = match at.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => at.size.to_string(),
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
