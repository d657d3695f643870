//! Writing an image: from any disk to a finished file, or to none at all.

mod ground;
mod parent;
mod stream;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rehost_block::{Disk, Error, Result};
use rehost_image::{Compression, Format, KeptBitmap, TargetOptions, VmdkKind, Wrapper, Written};
use serde::Serialize;

pub(crate) use ground::{spare_sources, spec};
pub use parent::Parent;
pub(crate) use parent::refuse_wrapped;
pub use stream::is_stream;

use crate::checksum::{Algorithm, Flat, Leaves, Sidecar, sidecar_name};
use crate::copy::{Copied, CopyOptions, Losses, Lost, Progress, Rate, Sharing, copy};
use crate::unfinished::{Existing, Flush, Unfinished};
use crate::voice::{Bar, Voice};
use ground::{Begun, begin};

/// What is to be written, and how.
#[derive(Debug, Clone)]
pub struct Writing<'a> {
    /// The target's format, and what only it can be asked for.
    pub options: TargetOptions,
    /// Whether and how it is compressed.
    pub compression: Option<Compression>,
    /// The image whose content the target is to hold only the difference to.
    pub parent: Option<&'a Parent>,
    /// Bitmaps of the source that a qcow2 target is to have too.
    pub bitmaps: Vec<KeptBitmap>,
    /// What becomes of an existing target.
    pub existing: Existing,
    /// Who sees to it that it reaches stable storage.
    pub flush: Flush,
    /// The files of the source, none of which may be written over.
    pub sources: &'a [PathBuf],
    /// How they are read (format, snapshot): a run that goes on with another's work must do it so too.
    pub reading: String,
    /// Number of threads; as many as there are processors if `None`.
    pub threads: Option<NonZeroUsize>,
    /// Whether blocks of the source's files may become the target's.
    pub sharing: Sharing,
    /// Set from outside to give up.
    pub cancel: &'a AtomicBool,
    /// The checksums to keep beside the target.
    pub checksum: Option<(Algorithm, Flat)>,
    /// What becomes of parts of the source that cannot be read.
    pub damage: Damage,
    /// Whether a killed run can be continued: guest bytes stored between two points to go on from.
    pub resume: Option<u64>,
    /// Most bytes of the source read per second.
    pub rate: Option<NonZeroU64>,
}

/// What becomes of parts of the source that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The first one is an error.
    Fatal,
    /// They are zeroes in the target, and listed in this file.
    Salvage(PathBuf),
}

impl<'a> Writing<'a> {
    /// A new image of the kind that `options` say.
    #[must_use]
    pub const fn new(options: TargetOptions, cancel: &'a AtomicBool) -> Self {
        Self {
            options,
            compression: None,
            parent: None,
            bitmaps: Vec::new(),
            existing: Existing::Keep,
            flush: Flush::Before,
            sources: &[],
            reading: String::new(),
            threads: None,
            sharing: Sharing::Auto,
            cancel,
            checksum: None,
            damage: Damage::Fatal,
            resume: None,
            rate: None,
        }
    }
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
    /// Guest bytes that an earlier run had done, when one was continued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_at: Option<u64>,
    /// The checksums, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksummed>,
    /// What was lost of a damaged source, when it was to be salvaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salvage: Option<Salvaged>,
}

/// The checksums of what was copied.
#[derive(Debug, Clone, Serialize)]
pub struct Checksummed {
    /// The hash function of the tree.
    pub algorithm: Algorithm,
    /// The digest over the whole tree.
    pub root: String,
    /// SHA-256 of the whole disk as a raw image, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flat_sha256: Option<String>,
    /// The file that keeps the tree.
    pub file: PathBuf,
}

/// What was lost of a damaged source.
#[derive(Debug, Clone, Serialize)]
pub struct Salvaged {
    /// Guest bytes that could not be read, and are zeroes in the target.
    pub lost_bytes: u64,
    /// In how many places.
    pub places: usize,
    /// The file that lists them.
    pub map: PathBuf,
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
    // What is wrapped is said by the suffix before the wrapper's.
    let inner = match Wrapper::of_name(name) {
        Some(_) => Path::new(name.file_stem().unwrap_or_default()),
        None => name,
    };
    let suffix = inner.extension().and_then(|suffix| suffix.to_str());
    suffix
        .and_then(|suffix| suffix.parse().ok())
        .ok_or_else(|| {
            Error::usage("its suffix names no format")
                .in_file(name)
                .hint("say which with --to FORMAT")
        })
}

/// The defaults of `format`: what is compressed and a VMDK is streamOptimized, the only kind that can
/// be.
///
/// # Errors
/// Usage for a format that is not written.
pub fn default_options(format: Format, compression: Option<Compression>) -> Result<TargetOptions> {
    let mut options = TargetOptions::new(format)?;
    if let TargetOptions::Vmdk(options) = &mut options
        && compression.is_some()
    {
        options.kind = VmdkKind::StreamOptimized;
    }
    Ok(options)
}

/// An image that is whole and on stable storage, and has not got its name yet.
#[derive(Debug)]
pub struct Whole {
    begun: Begun,
    beside: Vec<Unfinished>,
    outcome: Outcome,
}

impl Whole {
    /// What the copy did.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Gives the image its name, and those of the files beside it.
    ///
    /// # Errors
    /// Io when it cannot be renamed.
    pub fn finish(self) -> Result<Outcome> {
        // First what tells of the image: a run that dies here leaves no image without it.
        for file in self.beside {
            file.finish()?;
        }
        self.begun.finish()?;
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
    let started = std::time::Instant::now();
    refuse_combinations(name, writing)?;
    // Files beside the image are begun before it: a name that is taken is said before the work.
    let checksums = writing.checksum.map(|_| sidecar_name(name));
    let map = match &writing.damage {
        Damage::Fatal => None,
        Damage::Salvage(map) => Some(map.clone()),
    };
    let beside =
        [&checksums, &map].map(|path| path.as_deref().map(|path| Beside::begin(path, writing)));
    let [checksum_file, map_file] = beside.map(Option::transpose);
    let (checksum_file, map_file) = (checksum_file?, map_file?);

    let leaves = writing
        .checksum
        .map(|(algorithm, flat)| Leaves::new(algorithm, disk.size(), flat));
    let losses = map.as_ref().map(|_| Losses::default());
    let rate = writing.rate.map(Rate::new);
    let (begun, target) = begin(disk, name, writing, leaves.as_ref(), voice)?;
    let at = begun.position();
    let bar = voice.bar(disk.size(), at.done);
    let options = CopyOptions {
        threads: writing.threads.unwrap_or(CopyOptions::default().threads),
        progress: Some(&bar),
        sharing: writing.sharing,
        cancel: Some(writing.cancel),
        rate: rate.as_ref(),
        parent: writing.parent.map(Parent::disk),
        checksum: leaves.as_ref(),
        losses: losses.as_ref(),
        journal: begun.journal(),
    };
    let copied = copy(disk, &*target, &options);
    bar.finish();
    let written = copied.and_then(|copied| Ok((copied, target.publish()?)));
    drop(target);
    let (copied, written) = match written {
        Ok(written) => written,
        Err(error) => return Err(begun.give_up(error)),
    };
    let mut outcome = Outcome {
        copied,
        written,
        seconds: 0.0,
        resumed_at: (at.done > 0).then_some(at.done),
        checksum: None,
        salvage: None,
    };
    let mut files = Vec::new();
    if let (Some(leaves), Some(beside)) = (leaves, checksum_file) {
        let sidecar = Sidecar::from(&leaves.into_tree());
        outcome.checksum = Some(Checksummed {
            algorithm: sidecar.algorithm,
            root: sidecar.root.clone(),
            flat_sha256: sidecar.flat_sha256.clone(),
            file: beside.path.clone(),
        });
        files.push(beside.fill(&sidecar)?);
    }
    if let (Some(losses), Some(beside)) = (losses, map_file) {
        let lost = losses.into_map();
        outcome.salvage = Some(Salvaged {
            lost_bytes: lost.iter().map(|lost| lost.length).sum(),
            places: lost.len(),
            map: beside.path.clone(),
        });
        files.push(beside.fill(&SalvageMap::of(lost))?);
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(Whole {
        begun,
        beside: files,
        outcome,
    })
}

/// What does not go together, by name.
fn refuse_combinations(name: &Path, writing: &Writing<'_>) -> Result<()> {
    if writing.resume.is_some() {
        if writing.flush == Flush::Later {
            return Err(Error::usage("what is not flushed cannot be resumed")
                .hint("leave out --resume or --no-flush"));
        }
        if writing.damage != Damage::Fatal {
            return Err(Error::usage("a salvage cannot be resumed")
                .hint("leave out --resume: what cannot be read now may have been read before"));
        }
        if let Some((_, Flat::Wanted)) = writing.checksum {
            return Err(
                Error::usage("the checksum of a whole disk cannot be resumed")
                    .hint("choose --checksum sha256 or blake3, or leave out --resume"),
            );
        }
    }
    if writing.checksum.is_some() && !has_folder(name) {
        return Err(Error::usage("--checksum needs a file as target")
            .in_file(name)
            .hint("the checksums are kept beside it"));
    }
    if is_stream(name) {
        let beside = [
            (writing.resume.is_some(), "--resume"),
            (writing.parent.is_some(), "--backing"),
        ];
        if let Some((_, option)) = beside.into_iter().find(|(given, _)| *given) {
            return Err(Error::usage(format!("{option} needs a file as target"))
                .in_file(name)
                .hint(format!("leave out {option}, or write to a file")));
        }
    }
    Ok(())
}

/// Whether files can be made beside `name`: not beside a device, nor standard output.
#[must_use]
pub fn has_folder(name: &Path) -> bool {
    name != Path::new("-") && !ground::is_device(name)
}

/// What the salvage map says.
#[derive(Debug, Serialize)]
struct SalvageMap {
    /// The version of the file's own layout.
    rehost_salvage: u32,
    lost_bytes: u64,
    lost: Vec<Lost>,
}

impl SalvageMap {
    fn of(lost: Vec<Lost>) -> Self {
        Self {
            rehost_salvage: 1,
            lost_bytes: lost.iter().map(|lost| lost.length).sum(),
            lost,
        }
    }
}

/// A file beside the image that tells of it.
#[derive(Debug)]
struct Beside {
    path: PathBuf,
    unfinished: Unfinished,
    file: std::sync::Arc<rehost_block::File>,
}

impl Beside {
    fn begin(path: &Path, writing: &Writing<'_>) -> Result<Self> {
        spare_sources(path, writing.sources)?;
        let (unfinished, file) = Unfinished::create(path, writing.existing)?;
        Ok(Self {
            path: path.to_owned(),
            unfinished,
            file,
        })
    }

    fn fill<T: Serialize>(self, content: &T) -> Result<Unfinished> {
        use rehost_block::StorageMut;
        let mut text = serde_json::to_vec_pretty(content)
            .map_err(|error| Error::internal("cannot be put into words").because(error))?;
        text.push(b'\n');
        self.file.write_at(&text, 0)?;
        self.file.sync()?;
        Ok(self.unfinished)
    }
}
