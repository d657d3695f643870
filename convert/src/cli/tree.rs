//! `rehost tree`: the files below a directory inside an image.

use anyhow::Result;
use rehost_fs::FileKind;
use serde::Serialize;

use super::args::Tree;
use super::walk::{Walk, human};
use super::{Answer, output};
use crate::browse::{Browse, Entry, Found};
use crate::voice::plain;

/// The result as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    root: Branch,
    directories: u64,
    files: u64,
}

/// A file, with what is below it.
#[derive(Serialize)]
struct Branch {
    name: String,
    /// The name in hex, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base16: Option<String>,
    kind: FileKind,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    children: Option<Vec<Branch>>,
}

/// A tree on its way out.
struct Drawing<'a> {
    args: &'a Tree,
    walk: Walk<'a>,
    directories: u64,
    files: u64,
}

/// Runs the command.
pub(super) fn run(args: &Tree) -> Result<Answer> {
    let (opened, secrets) = args.opening.machine(&args.image, &args.place.more)?;
    let browse = Browse::open(&opened.disks(), &secrets, args.place.at())
        .map_err(|error| error.in_file(&args.image))?;
    let root = browse.find(&args.path)?;
    let attributes = root.fs.attributes(root.inode)?;
    let mut drawing = Drawing {
        args,
        walk: Walk::new(&browse),
        directories: 0,
        files: 0,
    };
    let name = args.path.to_string_lossy().into_owned();
    let is_directory = attributes.kind == FileKind::Directory;
    if args.json {
        let children = match is_directory {
            true => Some(drawing.branches(&root, 1)?),
            false => None,
        };
        output::json(&Report {
            root: Branch {
                name,
                name_base16: None,
                kind: attributes.kind,
                size: attributes.size,
                link: None,
                children,
            },
            directories: drawing.directories,
            files: drawing.files,
        })?;
    } else {
        output::line(format_args!("{}{name}", drawing.size(attributes.size)))?;
        if is_directory {
            drawing.draw(&root, "", 1)?;
        }
        let (directories, files) = (drawing.directories, drawing.files);
        output::line("")?;
        let mut sum = match directories {
            1 => "1 directory".to_owned(),
            _ => format!("{directories} directories"),
        };
        if !args.directories {
            sum.push_str(&match files {
                1 => ", 1 file".to_owned(),
                _ => format!(", {files} files"),
            });
        }
        output::line(sum)?;
    }
    drawing.walk.end()?;
    Ok(Answer::Done)
}

impl Drawing<'_> {
    /// What is shown of a directory; counted.
    fn entries(&mut self, directory: &Found, depth: usize) -> Result<Vec<Entry>> {
        if self.args.level.is_some_and(|level| depth > level) {
            return Ok(Vec::new());
        }
        let mut entries = self.walk.go_into(directory, depth)?;
        let is_directory = |entry: &Entry| entry.attributes.kind == FileKind::Directory;
        if self.args.directories {
            entries.retain(is_directory);
        }
        let directories = entries.iter().filter(|entry| is_directory(entry)).count() as u64;
        self.directories += directories;
        self.files += entries.len() as u64 - directories;
        Ok(entries)
    }

    fn draw(&mut self, directory: &Found, before: &str, depth: usize) -> Result<()> {
        let entries = self.entries(directory, depth)?;
        let mut left = entries.len();
        for entry in entries {
            left -= 1;
            let (branch, below) = match left {
                0 => ("└── ", "    "),
                _ => ("├── ", "│   "),
            };
            let name = String::from_utf8_lossy(&entry.name);
            let link = entry.link.as_deref().map(String::from_utf8_lossy);
            let link = link.map_or_else(String::new, |link| format!(" -> {link}"));
            // Also where nobody watches: a line feed in a name would draw a file that is not there.
            output::line(format_args!(
                "{before}{branch}{}{}",
                self.size(entry.attributes.size),
                plain(&format!("{name}{link}"))
            ))?;
            if entry.attributes.kind == FileKind::Directory {
                self.draw(&entry.found, &format!("{before}{below}"), depth + 1)?;
            }
        }
        Ok(())
    }

    /// A size as tree(1) shows it, if one is wanted.
    fn size(&self, size: u64) -> String {
        if self.args.human_readable {
            format!("[{:>4}]  ", human(size))
        } else if self.args.size {
            format!("[{size:>11}]  ")
        } else {
            String::new()
        }
    }

    fn branches(&mut self, directory: &Found, depth: usize) -> Result<Vec<Branch>> {
        let mut branches = Vec::new();
        for entry in self.entries(directory, depth)? {
            let deeper = self.args.level.is_none_or(|level| depth < level);
            let children = match entry.attributes.kind {
                FileKind::Directory if deeper => Some(self.branches(&entry.found, depth + 1)?),
                _ => None,
            };
            let (name, name_base16) = output::both(&entry.name);
            branches.push(Branch {
                name,
                name_base16,
                kind: entry.attributes.kind,
                size: entry.attributes.size,
                link: entry
                    .link
                    .map(|link| String::from_utf8_lossy(&link).into_owned()),
                children,
            });
        }
        Ok(branches)
    }
}
