//! The options of the verbs: what is done to one image, or to one image and its parents.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use rehost_image::{Compression, Format, parse_size};

use super::{Keys, Opening, Reporting, Writing};

/// Which state of a disk a command looks at.
#[derive(Debug, Clone, Args)]
pub struct Earlier {
    /// Take the disk as it was at this internal snapshot (qcow2), by its name or id
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
}

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost compare before.vmdk after.qcow2\n  rehost compare --checksum after.qcow2.checksums.json after.qcow2"
)]
pub struct Compare {
    /// One disk image
    #[arg(value_hint = ValueHint::FilePath)]
    pub left: PathBuf,
    /// The other
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "checksum", conflicts_with = "checksum")]
    pub right: Option<PathBuf>,
    /// Compare the image with the checksums that `convert --checksum` kept
    #[arg(long, value_name = "SIDECAR", value_hint = ValueHint::FilePath)]
    pub checksum: Option<PathBuf>,
    /// The format of both images; without it, their signatures decide
    #[arg(long = "from", value_name = "FORMAT")]
    pub format: Option<Format>,
    /// The first image's format, where it is another one
    #[arg(long, value_name = "FORMAT")]
    pub left_format: Option<Format>,
    /// The second image's format, where it is another one
    #[arg(long, value_name = "FORMAT")]
    pub right_format: Option<Format>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: Keys,
    /// Take the first disk as it was at this internal snapshot
    #[arg(long, value_name = "NAME")]
    pub left_snapshot: Option<String>,
    /// Take the second disk as it was at this internal snapshot
    #[arg(long, value_name = "NAME")]
    pub right_snapshot: Option<String>,
    /// Also open files named by the images below this folder (may be repeated)
    #[arg(long = "allow-path", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub allow_paths: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing: the exit code tells
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

/// Options of `snapshot`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost snapshot disk.qcow2\n  rehost snapshot --create before-upgrade disk.qcow2\n  rehost snapshot --apply before-upgrade disk.qcow2"
)]
pub struct Snapshot {
    /// The disk image (qcow2); it is changed in place, under a journal
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub action: SnapshotAction,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// What is done to the snapshots.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct SnapshotAction {
    /// List them, which is also done when nothing else is asked for
    #[arg(short, long)]
    pub list: bool,
    /// Keep the disk as it is now under this name
    #[arg(short, long, value_name = "NAME")]
    pub create: Option<String>,
    /// Make the disk what it was at this snapshot; what it is now is lost
    #[arg(short, long, value_name = "NAME")]
    pub apply: Option<String>,
    /// Forget this snapshot
    #[arg(short, long, value_name = "NAME")]
    pub delete: Option<String>,
}

/// Options of `check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost check disk.qcow2\n  rehost check --repair disk.qcow2\n\nExit codes: 0 nothing is wrong (any more); 1 something is; 2 error."
)]
pub struct Check {
    /// The disk image; one file of a chain is checked at a time
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Mend what can be mended without guessing, in place and under a journal; first roll back a
    /// change in place whose run was killed
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `resize`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost resize disk.qcow2 +10G\n  rehost resize --shrink disk.vhdx 20G"
)]
pub struct Resize {
    /// The disk image; it is changed in place, under a journal
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The new size (10G, 512M), or with + or - the difference
    #[arg(value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    pub size: String,
    /// Allow a smaller size; what is cut off must be zeroes
    #[arg(long)]
    pub shrink: bool,
    /// With --shrink, cut off data too
    #[arg(long, requires = "shrink")]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `rebase`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost rebase -b newbase.qcow2 child.qcow2\n  rehost rebase --unsafe -b moved/base.qcow2 child.qcow2"
)]
pub struct Rebase {
    /// The disk image; it is changed in place, under a journal
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Its new parent, as seen from here; it is stored relative to the image's folder where it lies in
    /// or below that
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub backing: PathBuf,
    /// The new parent's format; without it, its signature decides
    #[arg(short = 'F', long, value_name = "FORMAT")]
    pub backing_format: Option<Format>,
    /// Change the name only, and look at no content: for a parent that was moved or is known to be the
    /// same. The old parent need not exist
    #[arg(long = "unsafe")]
    pub trusted: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `commit`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rehost commit child.qcow2")]
pub struct Commit {
    /// The disk image; it and its parent are changed in place, under one journal
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Leave in the image what it holds, instead of emptying it
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `flatten`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost flatten child.qcow2\n  rehost flatten child.qcow2 alone.qcow2"
)]
pub struct Flatten {
    /// The disk image; without a target it is changed in place, under a journal
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The new image; its suffix, or else the image's own format, decides what it is
    #[arg(value_hint = ValueHint::FilePath)]
    pub target: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub writing: Writing,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `undo`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rehost undo disk.qcow2")]
pub struct Undo {
    /// The disk image that has a journal (of a killed run) or an undo file beside it
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Also put back files that the journal names below this folder (may be repeated); without it,
    /// only those in the image's own folder
    #[arg(long = "allow-path", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub allow_paths: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost create disk.qcow2 10G -o cluster_size=2M\n  rehost create child.qcow2 -B base.vmdk"
)]
pub struct Create {
    /// The disk image to make
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Its size (10G, 512M); that of its parent if not given
    #[arg(value_parser = size, required_unless_present = "backing")]
    pub size: Option<u64>,
    /// Make it the child of this image
    #[arg(short = 'B', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub backing: Option<PathBuf>,
    /// The format of the backing image; without it, its signature decides
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<Format>,
    /// Also open parents below this folder (may be repeated); without it, only those in the backing
    /// image's own folder
    #[arg(long = "allow-path", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub allow_paths: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: Keys,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub writing: Writing,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `measure`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost measure --to qcow2 disk.vmdk\n  rehost measure --to qcow2 --compress zstd disk.raw\n  rehost measure --to vhd -o subformat=fixed --size 10G"
)]
pub struct Measure {
    /// The disk image that would be converted
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "size")]
    pub source: Option<PathBuf>,
    /// Measure an image without content, of this size
    #[arg(long, value_name = "BYTES", value_parser = size, conflicts_with = "source")]
    pub size: Option<u64>,
    /// The parent that the new image would have
    #[arg(short = 'B', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub backing: Option<PathBuf>,
    /// The format of the backing image; without it, its signature decides
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<Format>,
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

/// Options of `compact`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost compact disk.qcow2\n  rehost compact --compress zstd archive.qcow2"
)]
pub struct Compact {
    /// The disk image; it is replaced when the new one is whole
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Compress it, otherwise than it is
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    pub compress: Option<Compression>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `dd`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost dd --length 1M disk.vmdk head.raw\n  rehost dd --offset 1M --length 512M disk.qcow2 partition.raw\n  rehost dd --to-offset 1M partition.raw disk.qcow2\n  rehost dd --length 512 disk.vhdx - | xxd"
)]
pub struct Dd {
    /// The disk image to read; it is never written to
    #[arg(value_hint = ValueHint::FilePath)]
    pub source: PathBuf,
    /// The new image, or - for standard output (raw); with --to-offset an image that exists, which is
    /// changed in place, under a journal
    #[arg(value_hint = ValueHint::FilePath)]
    pub target: PathBuf,
    /// Where in the source to begin
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = size)]
    pub offset: u64,
    /// How much to copy; to the source's end if not given
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub length: Option<u64>,
    /// Write over this part of a target that exists
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub to_offset: Option<u64>,
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

/// A size as typed.
fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "sizes are like 512, 64K, 10M or 2G".to_owned())
}
