//! The command line as data: what was typed, not yet checked against any file.
//!
//! Help, man pages and shell completions all come from these types.

mod files;
mod guests;
mod verbs;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use rehost_image::{Compression, Format};
use rehost_runtime::EngineChoice;

pub(super) use files::*;
pub(super) use guests::*;
pub(super) use verbs::*;

use crate::copy::Sharing;
use crate::secrets::Secrets;
use crate::voice::{Form, Loudness, Voice};

/// Exit codes, as every command's help ends.
const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 \"no\" or \"differs\"; 2 error; 3 verification failed.";

/// Moves machines: reads any disk image or VM, fixes the guest so that it boots on its new
/// hardware, writes the new image, and boots it to prove it.
#[derive(Debug, Parser)]
#[command(name = "rehost", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn a VM into a guest of another hypervisor, and prove that it boots there
    Migrate(Migrate),
    /// Show what a disk image is: format, sizes, and the files it is made of
    Info(ImageCommand),
    /// Show where each part of the disk is stored: data, zeroes, holes, packed units
    Map(ImageCommand),
    /// Copy a disk image into another format
    Convert(Convert),
    /// Say whether two disk images have the same content
    Compare(Compare),
    /// Look for what is wrong in an image's own tables, and mend what is safe to mend
    Check(Check),
    /// Give a disk another size, in place
    Resize(Resize),
    /// Give an image another parent, in place
    Rebase(Rebase),
    /// Put what an image holds into its parent, in place
    Commit(Commit),
    /// Make an image stand alone, in place or as a new image
    Flatten(Flatten),
    /// List, take, go back to or forget the internal snapshots of an image
    Snapshot(Snapshot),
    /// Make an image without content
    Create(Create),
    /// Say how long the files of a new image would be, to the byte
    Measure(Measure),
    /// Write an image anew without what it does not need, in its place
    Compact(Compact),
    /// Copy a part of a disk into a new image, to standard output, or over a part of another
    Dd(Dd),
    /// Roll back a change in place whose run was killed
    Undo(Undo),
    /// Look at a guest offline: system, kernels, drivers, boot loader, mounts, network
    Inspect(Inspect),
    /// Show disks, partitions, volumes and filesystems as a tree
    Lsblk(Lsblk),
    /// List a directory inside a disk image
    Ls(Ls),
    /// Show the files below a directory inside a disk image as a tree
    Tree(Tree),
    /// Add up the room that the files below a directory inside a disk image take
    Du(Du),
    /// Print a file inside a disk image
    Cat(Cat),
    /// Copy files out of a disk image, or into one
    Cp(Cp),
    /// Remove files inside a disk image
    Rm(Rm),
    /// Write a copy of an image whose guest has the drivers for its new hardware
    Inject(Inject),
    /// Boot an image on a throw-away overlay and say whether it reached the login prompt
    Verify(Verify),
    /// Offer a disk image as a network block device (NBD) on a Unix socket
    Serve(Serve),
    /// Print a shell completion script
    Completions {
        /// The shell it is for
        shell: Shell,
    },
    /// Write man pages, one a command, into a folder
    Man {
        /// The folder, which must exist
        #[arg(value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
    /// Print the reference of all commands in Markdown
    #[command(hide = true)]
    Reference,
}

/// Options of every command that opens an image.
#[derive(Debug, Clone, Args)]
pub struct Opening {
    /// The image's format; without it, its signature decides
    #[arg(id = "from", long = "from", value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Also open backing files, extents, parents and the disks of a machine below this folder (may be
    /// repeated); without it, only those in the folder of the image or the machine's description
    #[arg(long = "allow-path", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub allow_paths: Vec<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: Keys,
}

/// What opens encrypted images and volumes.
#[derive(Debug, Clone, Args)]
pub struct Keys {
    /// What opens encrypted images (qcow2 with LUKS) and volumes (LUKS): the file that holds the key,
    /// every byte of it (may be repeated)
    #[arg(long = "key-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_files: Vec<PathBuf>,

    /// The same with a passphrase: the first line of this file (may be repeated; `-`: standard input,
    /// not shown where that is a terminal)
    #[arg(long = "passphrase-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_files: Vec<PathBuf>,

    /// What was read of them: standard input cannot be read twice
    #[arg(skip)]
    pub known: OnceLock<Secrets>,
}

/// Options of every command that shows progress on standard error.
#[derive(Debug, Clone, Args)]
pub struct Reporting {
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,

    /// Print errors only
    #[arg(short, long)]
    pub quiet: bool,

    /// How progress is shown on standard error; `json` makes everything there but a final error
    /// lines of JSON
    #[arg(long, default_value = "auto", value_name = "FORM")]
    pub progress: ProgressForm,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressForm {
    /// A bar on a terminal, a line now and then elsewhere
    Auto,
    /// Lines of JSON
    Json,
    /// Not at all
    None,
}

impl Reporting {
    /// The voice that was asked for.
    #[must_use]
    pub const fn voice(&self) -> Voice {
        let loudness = if self.quiet {
            Loudness::Quiet
        } else {
            Loudness::Normal
        };
        let form = match self.progress {
            ProgressForm::Auto => Form::People,
            ProgressForm::Json => Form::Json,
            ProgressForm::None => Form::Steps,
        };
        Voice::with_form(loudness, form)
    }
}

/// Options of every command that boots a guest.
#[derive(Debug, Clone, Args)]
pub struct Booting {
    /// What runs the guest: the built-in machine on /dev/kvm, QEMU, or the first that works
    #[arg(long, default_value = "auto", value_name = "ENGINE")]
    pub engine: EngineChoice,

    /// Seconds until a guest that has not reached its login prompt counts as failed
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// Show the guest's serial console on standard error while it boots
    #[arg(long)]
    pub show_serial: bool,

    /// Give the guest its network cards, on a wire that leads nowhere, and ask it for its static
    /// addresses: one that does not answer is not proven (QEMU only)
    #[arg(long)]
    pub check_network: bool,
}

/// Options of every command that writes an image.
#[derive(Debug, Clone, Args)]
pub struct Writing {
    /// The target's format; without it, the suffix of its name decides
    #[arg(id = "to-format", long = "to", value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Compress: qcow2 takes zlib and zstd, a VMDK becomes streamOptimized with zlib
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    pub compress: Option<Compression>,

    /// Options of the target's format (may be repeated); `-o help` lists them
    #[arg(short = 'o', long = "option", value_name = "NAME=VALUE[,...]")]
    pub options: Vec<String>,

    /// A VHD as Azure asks for: fixed, its size rounded up to whole MiB
    #[arg(long)]
    pub azure: bool,

    /// Replace the target if it exists, and allow a block device as target
    #[arg(long)]
    pub force: bool,

    /// Share blocks of the source's files on file systems that can (XFS, Btrfs): never, auto, or
    /// always, which also lets the kernel copy where blocks cannot be shared
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub share: Sharing,

    /// Leave it to the operating system when what is written reaches the disk: faster, and a crash
    /// may leave a file that has its name and not its content
    #[arg(long)]
    pub no_flush: bool,

    /// Threads that read, pack and write; as many as there are processors if not given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// Options of `info` and `map`.
#[derive(Debug, Args)]
pub struct ImageCommand {
    /// The disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub earlier: Earlier,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `convert`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost convert disk.vmdk disk.qcow2\n  rehost convert --resume --checksum sha256 /dev/sdb server.qcow2\n  rehost convert --from raw --to qcow2 --compress zstd disk.img small.qcow2\n  rehost convert --compress zlib disk.qcow2 stream.vmdk"
)]
pub struct Convert {
    /// The disk image to read; it is never written to (`-`: standard input, kept in a temporary
    /// file)
    #[arg(value_hint = ValueHint::FilePath)]
    pub source: PathBuf,
    /// The disk image to write (`-`: standard output, for raw and streamOptimized VMDK)
    #[arg(value_hint = ValueHint::FilePath)]
    pub target: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub copying: Copying,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub earlier: Earlier,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub writing: Writing,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Which checksums to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChecksumChoice {
    /// A tree of SHA-256
    Sha256,
    /// A tree of BLAKE3
    Blake3,
    /// A tree of SHA-256, and what sha256sum prints of the raw disk (hashed in order, holes too)
    Sha256Flat,
}

/// Options of `convert` alone.
#[derive(Debug, Clone, Args)]
pub struct Copying {
    /// Write only what differs from this image, and make the target its child
    #[arg(short = 'B', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub backing: Option<PathBuf>,

    /// The format of the backing image; without it, its signature decides
    #[arg(long, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<Format>,

    /// Keep checksums of the content in TARGET.checksums.json (docs/checksums.md), for
    /// `rehost compare --checksum`
    #[arg(long, value_name = "KIND")]
    pub checksum: Option<ChecksumChoice>,

    /// Keep a journal, TARGET.partial.journal, and go on from that of a run that was killed
    #[arg(long)]
    pub resume: bool,

    /// With --resume: how much data is written between two points to go on from
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = size, requires = "resume")]
    pub checkpoint: u64,

    /// Copy what cannot be read as zeroes, list it in TARGET.salvage.json, and end with exit code 1
    #[arg(long)]
    pub salvage: bool,

    /// With --salvage: the list's name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "salvage")]
    pub salvage_map: Option<PathBuf>,

    /// Leave out what filesystems do not use (ext2, ext3, ext4, XFS, Btrfs, FAT), on partitions and
    /// logical volumes; of a filesystem in doubt nothing is left out
    #[arg(long)]
    pub skip_unused: bool,

    /// Leave out what swap areas hold; their UUIDs and labels stay
    #[arg(long)]
    pub zero_swap: bool,

    /// Read at most so much of the source per second: 512K, 100M, 1G
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub rate_limit: Option<NonZeroU64>,
}

/// A number of bytes as typed.
fn size(text: &str) -> Result<u64, String> {
    rehost_image::parse_size(text).ok_or_else(|| "is no size: write 512K, 100M or 1G".to_owned())
}

/// A number of bytes that is not 0.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(size(text)?).ok_or_else(|| "would never end".to_owned())
}

impl Command {
    /// Whether the result is wanted as JSON, so that an error is too. `migrate` reports its own.
    #[must_use]
    pub const fn wants_json(&self) -> bool {
        match self {
            Self::Info(args) | Self::Map(args) => args.json,
            Self::Convert(args) => args.reporting.json,
            Self::Compare(args) => args.json,
            Self::Check(args) => args.reporting.json,
            Self::Resize(args) => args.reporting.json,
            Self::Rebase(args) => args.reporting.json,
            Self::Commit(args) => args.reporting.json,
            Self::Flatten(args) => args.reporting.json,
            Self::Snapshot(args) => args.reporting.json,
            Self::Create(args) => args.reporting.json,
            Self::Measure(args) => args.reporting.json,
            Self::Compact(args) => args.reporting.json,
            Self::Dd(args) => args.reporting.json,
            Self::Undo(args) => args.reporting.json,
            Self::Inspect(args) => args.json,
            Self::Lsblk(args) => args.json,
            Self::Ls(args) => args.json,
            Self::Tree(args) => args.json,
            Self::Du(args) => args.json,
            Self::Cat(args) => args.json,
            Self::Cp(args) => args.reporting.json,
            Self::Rm(args) => args.reporting.json,
            Self::Inject(args) => args.reporting.json,
            Self::Verify(args) => args.reporting.json,
            Self::Serve(args) => args.reporting.json,
            Self::Migrate(_) | Self::Completions { .. } | Self::Man { .. } | Self::Reference => {
                false
            }
        }
    }
}
