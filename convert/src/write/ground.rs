//! Where an image is written: a file under its partial name, one that a killed run left, a device, or
//! a pipe.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rehost_block::{Disk, Error, File, Result, StorageMut};
use rehost_image::{OneFile, Target, TargetFiles, TargetSpec, create};

use super::Writing;
use super::stream::{self, is_stream};
use crate::checksum::Leaves;
use crate::resume::{Identity, Journal, Position, Tracked, journal_name};
use crate::unfinished::{Existing, UnfinishedFiles, partial_name};
use crate::voice::{Voice, bytes};

/// An image that is being written.
#[derive(Debug)]
pub(super) struct Begun {
    /// `None` for a device or a pipe, which has its name already.
    files: Option<UnfinishedFiles>,
    /// The journal and where it is.
    journal: Option<(Journal, PathBuf)>,
}

impl Begun {
    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref().map(|(journal, _)| journal)
    }

    /// How far an earlier run came.
    pub(super) fn position(&self) -> Position {
        self.journal()
            .map_or_else(Position::default, Journal::position)
    }

    /// Gives the image its name.
    pub(super) fn finish(self) -> Result<()> {
        if let Some(files) = self.files {
            files.finish()?;
        }
        if let Some((_, path)) = self.journal {
            fs::remove_file(&path)
                .map_err(|error| Error::io("cannot be removed", error).in_file(path))?;
        }
        Ok(())
    }

    /// Leaves no trace, but for what can be resumed.
    pub(super) fn give_up(self, error: Error) -> Error {
        match (self.files, self.journal) {
            (Some(files), Some(_)) => {
                files.keep();
                error.hint("what is done is kept: run the same command again to go on")
            }
            _ => error,
        }
    }
}

/// Begins the image that will be called `name`, or goes on with it.
pub(super) fn begin(
    disk: &dyn Disk,
    name: &Path,
    writing: &Writing<'_>,
    leaves: Option<&Leaves>,
    voice: Voice,
) -> Result<(Begun, Box<dyn Target>)> {
    let spec = spec(disk.size(), name, writing);
    let nameless = |target| {
        let begun = Begun {
            files: None,
            journal: None,
        };
        (begun, target)
    };
    if is_stream(name) {
        return stream::begin(name, &spec).map(nameless);
    }
    if is_device(name) {
        return begin_device(name, writing, &spec).map(nameless);
    }
    let sources: Vec<PathBuf> = writing
        .sources
        .iter()
        .chain(writing.parent.iter().flat_map(|parent| parent.files()))
        .cloned()
        .collect();
    let Some(step) = writing.resume else {
        let (files, file) =
            UnfinishedFiles::create_flushed(name, writing.existing, &sources, writing.flush)?;
        // A journal of an earlier run is about a file that is no longer there.
        let _ = fs::remove_file(journal_name(name));
        let target = create(&spec, file, &files).map_err(|error| error.in_file(name))?;
        let begun = Begun {
            files: Some(files),
            journal: None,
        };
        return Ok((begun, target));
    };
    let resumable = Resumable {
        name,
        spec: &spec,
        sources: &sources,
        existing: writing.existing,
        step,
        identity: identity(&sources, &spec, writing)?,
    };
    if Journal::is_begun(&journal_name(name)) && partial_name(name).is_file() {
        resumable.go_on(disk, leaves, voice)
    } else {
        resumable.begin()
    }
}

/// What must be the same for a run to go on with another's work.
fn identity(sources: &[PathBuf], spec: &TargetSpec, writing: &Writing<'_>) -> Result<Identity> {
    let checksum = writing
        .checksum
        .map_or("none".to_owned(), |(algorithm, _)| algorithm.to_string());
    Identity::new(
        sources,
        spec.size,
        format!("{spec:?}"),
        format!("checksum {checksum}, source {}", writing.reading),
    )
}

/// A conversion that keeps a journal.
struct Resumable<'a> {
    name: &'a Path,
    spec: &'a TargetSpec,
    sources: &'a [PathBuf],
    existing: Existing,
    step: u64,
    identity: Identity,
}

impl Resumable<'_> {
    /// The image on `storage`; what cannot be is said of the name that was asked for.
    fn create(&self, storage: Arc<Tracked>) -> Result<Box<dyn Target>> {
        create(self.spec, storage, &NoneBeside).map_err(|error| error.in_file(self.name))
    }

    fn begin(self) -> Result<(Begun, Box<dyn Target>)> {
        let (files, file) = UnfinishedFiles::create(self.name, self.existing, self.sources)?;
        // A journal of an earlier run is about a file that is no longer there.
        let _ = fs::remove_file(journal_name(self.name));
        let storage = Arc::new(Tracked::writing(file));
        let target = self.create(Arc::clone(&storage))?;
        let path = journal_name(self.name);
        let journal = Journal::begin(&path, &self.identity, storage, self.step)?;
        let begun = Begun {
            files: Some(files),
            journal: Some((journal, path)),
        };
        Ok((begun, target))
    }

    fn go_on(
        self,
        disk: &dyn Disk,
        leaves: Option<&Leaves>,
        voice: Voice,
    ) -> Result<(Begun, Box<dyn Target>)> {
        let (files, file) = UnfinishedFiles::reopen(self.name, self.existing, self.sources)?;
        let path = journal_name(self.name);
        let replay = || {
            let storage = Arc::new(Tracked::replaying(file));
            let target = self.create(Arc::clone(&storage))?;
            let journal = Journal::resume(
                &path,
                &self.identity,
                storage,
                &*target,
                disk,
                leaves,
                self.step,
            )?;
            Ok((journal, target))
        };
        // What is there is worth keeping even if this run cannot use it.
        let (journal, target) = match replay() {
            Ok(replayed) => replayed,
            Err(error) => {
                files.keep();
                return Err(error);
            }
        };
        voice.step(format_args!(
            "Going on at {} of {}, where an earlier run came to.",
            bytes(journal.position().done),
            bytes(disk.size())
        ));
        let begun = Begun {
            files: Some(files),
            journal: Some((journal, path)),
        };
        Ok((begun, target))
    }
}

/// For targets with a journal, which is about one file.
#[derive(Debug)]
struct NoneBeside;

impl TargetFiles for NoneBeside {
    fn create(&self, name: &str) -> Result<Arc<dyn StorageMut>> {
        Err(Error::usage(format!(
            "--resume works for images that are one file, and this one needs {name:?} besides"
        ))
        .hint("leave out --resume, or choose a kind of image that is one file"))
    }
}

fn begin_device(name: &Path, writing: &Writing<'_>, spec: &TargetSpec) -> Result<Box<dyn Target>> {
    spare_sources(name, writing.sources)?;
    if writing.existing == Existing::Keep {
        return Err(
            Error::usage("is a block device, and all on it would be lost")
                .in_file(name)
                .hint("say --force if that is meant"),
        );
    }
    if writing.resume.is_some() {
        return Err(Error::usage("--resume needs a file as target")
            .in_file(name)
            .hint("leave out --resume, or write to a file"));
    }
    // Nothing is made beside a device.
    create(spec, Arc::new(File::open_mut(name)?), &OneFile).map_err(|error| error.in_file(name))
}

/// What is to be written to `name`.
pub(crate) fn spec(size: u64, name: &Path, writing: &Writing<'_>) -> TargetSpec {
    TargetSpec {
        size,
        name: name
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        compression: writing.compression,
        backing: writing.parent.map(|parent| parent.backing().clone()),
        bitmaps: writing.bitmaps.clone(),
        options: writing.options.clone(),
    }
}

pub(super) fn is_device(name: &Path) -> bool {
    name.metadata()
        .is_ok_and(|meta| meta.file_type().is_block_device())
}

/// The source stays as it is, whatever else may be replaced: neither the target nor its partial file
/// may be one of its files, by whichever name.
///
/// # Errors
/// Usage when one is.
pub(crate) fn spare_sources(name: &Path, sources: &[PathBuf]) -> Result<()> {
    for path in [name.to_owned(), partial_name(name)] {
        let Ok(there) = path.metadata() else {
            continue;
        };
        let is_same = |source: &PathBuf| {
            source.metadata().is_ok_and(|source| {
                let is_device = |meta: &fs::Metadata| meta.file_type().is_block_device();
                (source.dev(), source.ino()) == (there.dev(), there.ino())
                    || is_device(&source) && is_device(&there) && source.rdev() == there.rdev()
            })
        };
        if sources.iter().any(is_same) {
            return Err(
                Error::usage("belongs to the source, which is never changed")
                    .in_file(path)
                    .hint("choose another name"),
            );
        }
    }
    Ok(())
}
