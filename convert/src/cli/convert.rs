//! `rehost convert`: one image into another format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rehost_block::{Disk, Error, File, Storage};
use rehost_image::{
    Compat, Details, Format, Image, KeptBitmap, TargetOptions, VhdKind, keep_bitmaps,
};
use serde::Serialize;

use super::args::{self, ChecksumChoice, Convert, Copying};
use super::spool::spool;
use super::{Answer, output};
use crate::checksum::{Algorithm, Flat};
use crate::guest::{ImageOptions, evidence};
use crate::interrupt;
use crate::unfinished::{Existing, Flush};
use crate::unused::{Left, Wanted, trim};
use crate::voice::{Voice, bytes};
use crate::write::{
    Damage, Outcome, Parent, Writing, default_options, format_of_name, has_folder, write_image,
};

/// What was left out of each volume, when it was asked for.
type Unused = Option<Vec<Left>>;

/// The result as JSON.
#[derive(Serialize)]
struct Converted<'a> {
    source: &'a std::path::Path,
    from: Format,
    target: &'a std::path::Path,
    to: Format,
    virtual_size: u64,
    /// What was left out of each volume, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    unused: Option<Vec<Left>>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs the command.
pub(super) fn run(args: &Convert) -> Result<Answer> {
    if explained(&args.writing, Some(&args.target))? {
        return Ok(Answer::Done);
    }
    let voice = args.reporting.voice();
    if args.reporting.json && args.target == Path::new("-") {
        return Err(
            Error::usage("standard output takes the image, and --json prints there")
                .hint("leave out --json, or write to a file")
                .into(),
        );
    }
    let image = open_source(args, voice)?;
    tell_corrupt(&image, voice);
    let parent = args
        .copying
        .backing
        .as_ref()
        .map(|path| {
            let secrets = args.opening.keys.secrets()?;
            let options = ImageOptions {
                format: args.copying.backing_format,
                ..args.opening.options(&secrets)
            };
            Parent::open(path, &args.target, &options)
        })
        .transpose()?;
    let writing = writing(&args.writing, &args.target, image.files())?;
    let writing = Writing {
        parent: parent.as_ref(),
        reading: reading(args, &image),
        bitmaps: kept_bitmaps(&image, &writing.options, voice)?,
        ..with_care(&args.copying, &args.target, writing)?
    };
    let to = writing.options.format();
    let told = image.layers().first().and_then(evidence);
    let told = told.map_or(String::new(), |told| format!(", {told}"));
    voice.step(format_args!(
        "Copying {} ({}{told}, {}) to {} ({to}).",
        args.source.display(),
        image.format(),
        bytes(image.size()),
        args.target.display(),
    ));
    let (disk, unused) = trimmed(image.disk(), &args.copying, voice)?;
    let outcome = write_image(&*disk, &args.target, &writing, voice)?;
    voice.step(summary(&outcome));
    tell_more(&outcome, voice);
    for left in unused.iter().flatten() {
        voice.detail(sentence(left));
    }
    let lost = outcome
        .salvage
        .as_ref()
        .map_or(0, |salvage| salvage.lost_bytes);
    if args.reporting.json {
        output::json(&Converted {
            source: &args.source,
            from: image.format(),
            target: &args.target,
            to,
            virtual_size: image.size(),
            unused,
            outcome,
        })?;
    }
    Ok(if lost == 0 { Answer::Done } else { Answer::No })
}

/// Warns of images that their own writer found to be broken.
fn tell_corrupt(image: &Image, voice: Voice) {
    for layer in image.layers() {
        if matches!(&layer.details, Details::Qcow2(details) if details.corrupt) {
            voice.step(format_args!(
                "Warning: {} is marked corrupt; what is read of it may be wrong (`rehost check` tells more).",
                layer.path.display()
            ));
        }
    }
}

/// How the source is read, for a run that goes on with another's work.
fn reading(args: &Convert, image: &Image) -> String {
    let mut reading = format!("{} {:?}", image.format(), args.earlier.snapshot);
    for (wanted, word) in [
        (args.copying.skip_unused, " without unused"),
        (args.copying.zero_swap, " without swap"),
    ] {
        if wanted {
            reading.push_str(word);
        }
    }
    reading
}

/// The source's disk without what need not be copied, and what that is.
fn trimmed(disk: Arc<dyn Disk>, args: &Copying, voice: Voice) -> Result<(Arc<dyn Disk>, Unused)> {
    let wanted = Wanted {
        unused: args.skip_unused,
        swap: args.zero_swap,
    };
    let what = match (wanted.unused, wanted.swap) {
        (false, false) => return Ok((disk, None)),
        (true, false) => "what filesystems do not use",
        (false, true) => "swap areas",
        (true, true) => "swap areas and what filesystems do not use",
    };
    voice.step(format_args!("Looking for {what}."));
    let trimmed = trim(&disk, wanted)?;
    Ok((trimmed.disk, Some(trimmed.left)))
}

/// What was left out of a volume, in a sentence.
fn sentence(left: &Left) -> String {
    let volume = if left.volume == "0" {
        "the disk".to_owned()
    } else if left.volume.contains('/') {
        left.volume.clone()
    } else {
        format!("partition {}", left.volume)
    };
    let holds = &left.filesystem;
    match &left.kept_because {
        Some(why) => format!("{volume} ({holds}): nothing left out: {why}"),
        None => format!(
            "{volume} ({holds}): {} not in use, {} of it left out, the rest was not stored",
            bytes(left.unused_bytes),
            bytes(left.skipped_bytes)
        ),
    }
}

/// The source's bitmaps that the target can have too; says so when it cannot.
fn kept_bitmaps(image: &Image, options: &TargetOptions, voice: Voice) -> Result<Vec<KeptBitmap>> {
    let Some(layer) = image.layers().first() else {
        return Ok(Vec::new());
    };
    let Details::Qcow2(details) = &layer.details else {
        return Ok(Vec::new());
    };
    // What a snapshot held is not what the bitmaps tell of; and packed files have no room to look.
    if details.bitmaps == 0 || layer.wrapper.is_some() {
        return Ok(Vec::new());
    }
    let takes = matches!(options, TargetOptions::Qcow2(options) if options.compat == Compat::V3);
    if !takes {
        voice.step(format_args!(
            "Leaving out {} bitmaps of the source, which the target cannot have.",
            details.bitmaps
        ));
        return Ok(Vec::new());
    }
    let storage: Arc<dyn Storage> = Arc::new(File::open(&layer.path)?);
    let kept = keep_bitmaps(&layer.path, layer.format, &storage)?;
    let lost = u64::from(details.bitmaps) - kept.len() as u64;
    if lost > 0 {
        voice.step(format_args!(
            "Leaving out {lost} bitmaps that no writer vouches for."
        ));
    }
    Ok(kept)
}

/// The source, from standard input if that is meant.
fn open_source(args: &Convert, voice: Voice) -> Result<Image> {
    if args.source != Path::new("-") {
        let image = args.opening.image_at(&args.source, &args.earlier)?;
        return Ok(image);
    }
    if args.copying.resume {
        return Err(Error::usage("--resume needs a file as source")
            .hint("what came from standard input does not come again")
            .into());
    }
    Ok(spool(args.opening.format, voice)?)
}

/// What `convert` alone offers, as typed.
fn with_care<'a>(args: &Copying, target: &Path, writing: Writing<'a>) -> Result<Writing<'a>> {
    if args.salvage && args.salvage_map.is_none() && !has_folder(target) {
        return Err(
            Error::usage("--salvage has no place for its list beside this target")
                .in_file(target)
                .hint("name one with --salvage-map FILE")
                .into(),
        );
    }
    let map = args.salvage_map.clone().unwrap_or_else(|| {
        let mut map = target.as_os_str().to_owned();
        map.push(".salvage.json");
        PathBuf::from(map)
    });
    Ok(Writing {
        checksum: args.checksum.map(|choice| match choice {
            ChecksumChoice::Sha256 => (Algorithm::Sha256, Flat::Unwanted),
            ChecksumChoice::Blake3 => (Algorithm::Blake3, Flat::Unwanted),
            ChecksumChoice::Sha256Flat => (Algorithm::Sha256, Flat::Wanted),
        }),
        damage: if args.salvage {
            Damage::Salvage(map)
        } else {
            Damage::Fatal
        },
        resume: args.resume.then_some(args.checkpoint),
        rate: args.rate_limit,
        ..writing
    })
}

/// The options as typed, for an image called `target` made from the files `sources`.
pub(super) fn writing<'a>(
    args: &args::Writing,
    target: &Path,
    sources: &'a [PathBuf],
) -> Result<Writing<'a>> {
    Ok(Writing {
        compression: args.compress,
        existing: Existing::from_force(args.force),
        sources,
        threads: args.threads,
        sharing: args.share,
        flush: if args.no_flush {
            Flush::Later
        } else {
            Flush::Before
        },
        ..Writing::new(options(args, target)?, interrupt::flag()?)
    })
}

/// The target's options as typed.
fn options(args: &args::Writing, target: &Path) -> Result<TargetOptions> {
    let format = match args.format {
        Some(format) => format,
        None if target == Path::new("-") => Format::Raw,
        None => format_of_name(target)?,
    };
    let mut options = default_options(format, args.compress)?;
    options.wrap_by_name(target)?;
    for words in &args.options {
        options.parse(words)?;
    }
    if args.azure {
        let TargetOptions::Vhd(options) = &mut options else {
            return Err(Error::usage("--azure goes with VHD targets only")
                .hint("name the target .vhd, or say --to vhd")
                .into());
        };
        options.azure = true;
        options.kind = VhdKind::Fixed;
    }
    Ok(options)
}

/// `-o help`: prints what the target's format can be asked for, and says whether it was asked.
pub(super) fn explained(args: &args::Writing, target: Option<&Path>) -> Result<bool> {
    if !args.options.iter().any(|words| words == "help") {
        return Ok(false);
    }
    let format = match (args.format, target) {
        (Some(format), _) => format,
        (None, Some(target)) => format_of_name(target)?,
        (None, None) => anyhow::bail!("say the target's format with --to FORMAT"),
    };
    let options = TargetOptions::new(format)?;
    output::line(format_args!("Options of {format} targets, for -o:"))?;
    if options.known().is_empty() {
        output::line("  none")?;
    }
    for option in options.known() {
        output::line(format_args!("  {}=: {}", option.name, option.about))?;
        output::line(format_args!("      {}", option.values))?;
        output::line(format_args!("      if not given: {}", option.default))?;
    }
    Ok(true)
}

/// One sentence about a copy.
pub(super) fn summary(outcome: &Outcome) -> String {
    let shared = match outcome.copied.shared {
        0 => String::new(),
        shared => format!(", {} shared", bytes(shared)),
    };
    format!(
        "Wrote {} ({} copied{shared}, {} zeroes) in {:.1} s.",
        bytes(outcome.written.file_bytes),
        bytes(outcome.copied.data),
        bytes(outcome.copied.zero + outcome.copied.hole),
        outcome.seconds
    )
}

/// What else there is to say: the parent's share, checksums, losses.
fn tell_more(outcome: &Outcome, voice: Voice) {
    if outcome.copied.below > 0 {
        voice.detail(format_args!(
            "{} are as in the backing image",
            bytes(outcome.copied.below)
        ));
    }
    if let Some(checksum) = &outcome.checksum {
        voice.detail(format_args!(
            "{} of the content: {} (tree in {})",
            checksum.algorithm,
            checksum.root,
            checksum.file.display()
        ));
        if let Some(flat) = &checksum.flat_sha256 {
            voice.detail(format_args!("sha256sum of the raw disk: {flat}"));
        }
    }
    if let Some(salvage) = &outcome.salvage {
        match salvage.lost_bytes {
            0 => voice.detail("all of the source could be read"),
            lost => voice.detail(format_args!(
                "{} in {} places could not be read and are zeroes in the target; {} lists them",
                bytes(lost),
                salvage.places,
                salvage.map.display()
            )),
        }
    }
}
