//! The package database of a guest: which packages are installed, by whichever package manager.
//!
//! dpkg's status file, apk's `installed`, pacman's local database, and rpm's database in its three
//! forms ([`rpm`]). Report only: nothing that makes a guest boot depends on it. Left out on purpose:
//! Portage, Slackware, snaps and flatpaks.

pub mod rpm;
mod text;

use rehost_block::Result;

use crate::model::{Finding, Package, PackageDatabase, Place, Severity};
use crate::reader::Reader;
use crate::tree::GuestFile;

/// Largest text database that is read. Ours: a full desktop has 10 MiB.
const MOST_TEXT: u64 = 64 << 20;

/// Most packages that are listed. Ours: the largest repositories have a third of that.
const MOST_PACKAGES: usize = 1 << 18;

/// Most bytes of headers that are read. Ours: five times what a full desktop has.
const MOST_READ: u64 = 1 << 30;

/// A file that is read by place, so that a database need not be in memory.
pub trait Bytes {
    /// Its length.
    fn size(&self) -> u64;

    /// Reads at `offset`; gives how many bytes, less than `buf.len()` only at the end.
    ///
    /// # Errors
    /// Io, or Corrupt as the filesystem it is on.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;
}

impl Bytes for [u8] {
    fn size(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| self.get(at..))
            .unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }
}

impl Bytes for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.as_slice().read_at(buf, offset)
    }
}

impl Bytes for GuestFile {
    fn size(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read(buf, offset)
    }
}

/// What a database lists, and how much of it could not be read.
#[derive(Debug, Default)]
pub struct Listed {
    /// The packages, sorted by name.
    pub packages: Vec<Package>,
    /// The first thing that could not be read, if anything could not.
    pub damage: Option<rehost_block::Error>,
    /// Bytes of records that were read.
    read: u64,
}

impl Listed {
    pub(crate) fn add(&mut self, package: Package) {
        if self.packages.len() < MOST_PACKAGES {
            self.packages.push(package);
        }
    }

    /// Counts a record of which `len` bytes are read, so that records that share their bytes cost
    /// no more than a large database does.
    ///
    /// # Errors
    /// Unsupported when there are too many.
    pub(crate) fn spend(&mut self, len: u64) -> Result<()> {
        self.read = self.read.saturating_add(len.max(MOST_READ >> 18));
        if self.read > MOST_READ {
            return Err(rehost_block::Error::unsupported(
                "more packages than any database has",
            ));
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, error: rehost_block::Error) {
        self.damage.get_or_insert(error);
    }

    fn sorted(mut self) -> Self {
        self.packages.sort();
        self
    }
}

/// The package database, when there is one that is known.
pub(crate) fn find(reader: &Reader<'_>) -> Option<PackageDatabase> {
    let found = dpkg(reader)
        .or_else(|| rpm::find(reader))
        .or_else(|| apk(reader))
        .or_else(|| pacman(reader))?;
    let (kind, format, path, listed) = found;
    let installed = match listed {
        Ok(listed) => {
            if let Some(error) = &listed.damage {
                unreadable(reader, kind, &path, error);
            }
            Some(listed.sorted().packages)
        }
        Err(error) => {
            unreadable(reader, kind, &path, &error);
            None
        }
    };
    Some(PackageDatabase {
        kind,
        format,
        installed: installed
            .as_ref()
            .and_then(|packages| u64::try_from(packages.len()).ok()),
        packages: installed.unwrap_or_default(),
        place: Place::file(path),
    })
}

/// Kind, format, place, content.
type Database = (&'static str, &'static str, String, Result<Listed>);

fn unreadable(reader: &Reader<'_>, kind: &str, path: &str, error: &rehost_block::Error) {
    let place = match error.offset() {
        Some(byte) => Place::byte(path, byte),
        None => Place::file(path),
    };
    reader.find(Finding {
        severity: Severity::Note,
        id: "packages-unreadable",
        what: format!("the {kind} database is not read as a whole: {error}"),
        evidence: vec![place],
        fix: None,
    });
}

fn dpkg(reader: &Reader<'_>) -> Option<Database> {
    let path = "/var/lib/dpkg/status";
    // Images without dpkg itself keep one file per package.
    let folder = "/var/lib/dpkg/status.d";
    if !reader.exists(path) && !reader.exists(folder) {
        return None;
    }
    let mut listed = Listed::default();
    if let Some(bytes) = reader.bytes_at_most(path, MOST_TEXT) {
        text::dpkg(&String::from_utf8_lossy(&bytes), &mut listed);
    }
    for name in reader.names(folder) {
        if name.ends_with(".md5sums") {
            continue;
        }
        if let Some(text) = reader.text(&format!("{folder}/{name}")) {
            text::dpkg(&text.content, &mut listed);
        }
    }
    Some(("dpkg", "text", path.to_owned(), Ok(listed)))
}

fn apk(reader: &Reader<'_>) -> Option<Database> {
    let path = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"]
        .into_iter()
        .find(|path| reader.exists(path))?;
    let mut listed = Listed::default();
    if let Some(bytes) = reader.bytes_at_most(path, MOST_TEXT) {
        text::apk(&String::from_utf8_lossy(&bytes), &mut listed);
    }
    Some(("apk", "text", path.to_owned(), Ok(listed)))
}

fn pacman(reader: &Reader<'_>) -> Option<Database> {
    let folder = "/var/lib/pacman/local";
    if !reader.exists(folder) {
        return None;
    }
    let mut listed = Listed::default();
    for name in reader.names(folder) {
        if name == "ALPM_DB_VERSION" {
            continue;
        }
        let desc = reader.text(&format!("{folder}/{name}/desc"));
        let package = desc
            .and_then(|text| text::pacman(&text.content))
            .or_else(|| text::pacman_folder(&name));
        if let Some(package) = package {
            listed.add(package);
        }
    }
    Some(("pacman", "text", folder.to_owned(), Ok(listed)))
}
