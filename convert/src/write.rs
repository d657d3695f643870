//! Writing an image: from any disk to a finished file, or to none at all.

use std::num::NonZeroUsize;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Error, File, Result};
use rehost_image::{
    Compression, Format, OneFile, TargetOptions, TargetSpec, VmdkKind, Written, create,
};
use serde::Serialize;

use crate::copy::{Copied, CopyOptions, Progress, copy};
use crate::unfinished::{Existing, Unfinished, partial_name};
use crate::voice::{Bar, Voice};

/// What is to be written, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writing<'a> {
    /// The target's format.
    pub format: Format,
    /// Whether and how it is compressed.
    pub compression: Option<Compression>,
    /// What becomes of an existing target.
    pub existing: Existing,
    /// The files of the source, none of which may be written over.
    pub sources: &'a [PathBuf],
    /// Number of threads; as many as there are processors if `None`.
    pub threads: Option<NonZeroUsize>,
    /// Set from outside to give up.
    pub cancel: &'a AtomicBool,
}

/// What a copy did.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The copy's own count.
    #[serde(flatten)]
    pub copied: Copied,
    /// The image's own count.
    #[serde(flatten)]
    pub written: Written,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Progress for Bar {
    fn advance(&self, done: u64, _total: u64, data: u64) {
        self.at(done, data);
    }
}

/// The format that a file name asks for.
///
/// # Errors
/// Usage when its suffix is none that is known.
pub fn format_of_name(name: &Path) -> Result<Format> {
    let suffix = name.extension().and_then(|suffix| suffix.to_str());
    suffix
        .and_then(|suffix| suffix.parse().ok())
        .ok_or_else(|| {
            Error::usage("its suffix names no format")
                .in_file(name)
                .hint("say which with --to FORMAT")
        })
}

/// An image that is whole and on stable storage, and has not got its name yet.
#[derive(Debug)]
pub struct Whole {
    /// `None` for a device, which has its name already.
    unfinished: Option<Unfinished>,
    outcome: Outcome,
}

impl Whole {
    /// What the copy did.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Gives the image its name.
    ///
    /// # Errors
    /// Io when it cannot be renamed.
    pub fn finish(self) -> Result<Outcome> {
        if let Some(unfinished) = self.unfinished {
            unfinished.finish()?;
        }
        Ok(self.outcome)
    }
}

/// Writes the content of `disk` to `name`. The file gets its name only when it is whole.
///
/// # Errors
/// As [`write_unnamed`] and [`Whole::finish`].
pub fn write_image(
    disk: &dyn Disk,
    name: &Path,
    writing: &Writing<'_>,
    voice: Voice,
) -> Result<Outcome> {
    write_unnamed(disk, name, writing, voice)?.finish()
}

/// Writes the content of `disk` to the file that will be called `name`.
///
/// # Errors
/// Usage when the target exists and must be kept, or is a file of the source; Io when it cannot be
/// written; and whatever reading the disk gives.
pub fn write_unnamed(
    disk: &dyn Disk,
    name: &Path,
    writing: &Writing<'_>,
    voice: Voice,
) -> Result<Whole> {
    let begun = std::time::Instant::now();
    let mut spec = TargetSpec::new(
        writing.format,
        disk.size(),
        name.file_name().unwrap_or_default().to_string_lossy(),
    )?;
    spec.compression = writing.compression;
    if let TargetOptions::Vmdk(options) = &mut spec.options
        && writing.compression.is_some()
    {
        options.kind = VmdkKind::StreamOptimized;
    }
    spare_sources(name, writing.sources)?;
    let is_device = name
        .metadata()
        .is_ok_and(|meta| meta.file_type().is_block_device());
    let (unfinished, file) = if is_device {
        if writing.existing == Existing::Keep {
            return Err(
                Error::usage("is a block device, and all on it would be lost")
                    .in_file(name)
                    .hint("say --force if that is meant"),
            );
        }
        (None, Arc::new(File::open_mut(name)?))
    } else {
        let (unfinished, file) = Unfinished::create(name, writing.existing)?;
        (Some(unfinished), file)
    };
    let target = create(&spec, file, &OneFile)?;
    let bar = voice.bar(disk.size());
    let mut options = CopyOptions {
        progress: Some(&bar),
        cancel: Some(writing.cancel),
        ..CopyOptions::default()
    };
    if let Some(threads) = writing.threads {
        options.threads = threads;
    }
    let copied = copy(disk, &*target, &options);
    bar.finish();
    let copied = copied?;
    let written = target.publish()?;
    drop(target);
    let outcome = Outcome {
        copied,
        written,
        seconds: begun.elapsed().as_secs_f64(),
    };
    Ok(Whole {
        unfinished,
        outcome,
    })
}

/// The source stays as it is, whatever else may be replaced: neither the target nor its partial file
/// may be one of its files, by whichever name.
fn spare_sources(name: &Path, sources: &[PathBuf]) -> Result<()> {
    for path in [name.to_owned(), partial_name(name)] {
        let Ok(there) = path.metadata() else {
            continue;
        };
        let is_same = |source: &PathBuf| {
            source.metadata().is_ok_and(|source| {
                let is_device = |meta: &std::fs::Metadata| meta.file_type().is_block_device();
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
