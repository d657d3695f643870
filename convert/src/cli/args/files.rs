//! The options of the commands that look at volumes and files inside images, or change them.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};

use super::{Opening, Reporting, Writing};
use crate::browse::At;

/// The other disks of a machine.
#[derive(Debug, Clone, Args)]
pub struct MoreDisks {
    /// A further disk of the same machine (may be repeated, in the machine's order): for volume groups
    /// and arrays over several disks
    #[arg(long = "disk", value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub disks: Vec<PathBuf>,
}

/// Where inside an image a command looks.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Look at the filesystem of this volume instead of the guest's own mounts: by its name in
    /// `rehost lsblk` (2: partition 2; 0: the whole disk; 1:2: partition 2 of the second disk; vg/lv;
    /// md0), or as its fstab would name it (/dev/sda2, /dev/mapper/vg-lv, UUID=...)
    #[arg(long, value_name = "VOLUME")]
    pub volume: Option<String>,
    /// Look at this Btrfs subvolume: by its path, as `mount -o subvol=` takes it (@home; /: the top
    /// one), or # and its number; of the only Btrfs where no --volume is given
    #[arg(long, value_name = "SUBVOLUME")]
    pub subvolume: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub more: MoreDisks,
}

impl Place {
    /// Which filesystem that is.
    pub(in crate::cli) fn at(&self) -> At<'_> {
        At {
            volume: self.volume.as_deref(),
            subvolume: self.subvolume.as_deref(),
        }
    }
}

/// Where the changed disk goes.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub struct Destination {
    /// Where an image is changed: the new image to write; the old one stays as it is
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Change the image itself, under a journal
    #[arg(long)]
    pub in_place: bool,
}

/// Options of `lsblk`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost lsblk guest.vmx\n  rehost lsblk first.qcow2 --disk second.qcow2 --passphrase-file -"
)]
pub struct Lsblk {
    /// A disk image, or a VMX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub source: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub more: MoreDisks,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `ls`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Ls {
    /// The disk image, or a VMX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The directory or file in the guest
    #[arg(default_value = "/")]
    pub path: PathBuf,
    /// Show type, mode, owner, size and time of each
    #[arg(short, long)]
    pub long: bool,
    /// With -l: sizes as 4.0K, 1.5M
    #[arg(short = 'h', long)]
    pub human_readable: bool,
    /// Go into directories; names are paths from the first one
    #[arg(short = 'R', long)]
    pub recursive: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Options of `tree`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  rehost tree -L 2 disk.qcow2 /etc\n  rehost tree -h disk.qcow2 /boot --volume vg/root"
)]
pub struct Tree {
    /// The disk image, or a VMX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The directory in the guest
    #[arg(default_value = "/")]
    pub path: PathBuf,
    /// Show directories only
    #[arg(short, long)]
    pub directories: bool,
    /// Go down so many levels
    #[arg(short = 'L', long, value_name = "N")]
    pub level: Option<usize>,
    /// Show sizes in bytes
    #[arg(short, long)]
    pub size: bool,
    /// Show sizes as 4.0K, 1.5M
    #[arg(short = 'h', long)]
    pub human_readable: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Options of `du`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Example:\n  rehost du -h --max-depth 1 disk.qcow2 /var"
)]
pub struct Du {
    /// The disk image, or a VMX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The directory or file in the guest
    #[arg(default_value = "/")]
    pub path: PathBuf,
    /// Show files too, not directories only
    #[arg(short, long)]
    pub all: bool,
    /// Show the sum only
    #[arg(short, long, conflicts_with_all = ["all", "max_depth"])]
    pub summarize: bool,
    /// Show directories down to so many levels; all of them are added up
    #[arg(short = 'd', long, value_name = "N")]
    pub max_depth: Option<usize>,
    /// Sizes as 4.0K, 1.5M, instead of in KiB
    #[arg(short = 'h', long, conflicts_with = "bytes")]
    pub human_readable: bool,
    /// Add up the lengths of files, and not the room that they take on the disk
    #[arg(long)]
    pub apparent_size: bool,
    /// Lengths in bytes, as du(1) has it: --apparent-size, and not in KiB
    #[arg(short, long)]
    pub bytes: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Options of `cat`.
#[derive(Debug, Args)]
pub struct Cat {
    /// The disk image, or a VMX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The file in the guest
    pub path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    /// Print path, attributes and content as JSON: `text` where it is UTF-8, `base16` otherwise
    #[arg(long)]
    pub json: bool,
}

/// Options of `cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost cp disk.vmdk:/etc/fstab .\n  rehost cp -r disk.qcow2:/var/log logs\n  rehost cp motd disk.vmdk:/etc/motd --output edited.qcow2\n  rehost cp -r site disk.qcow2:/srv/www --in-place"
)]
pub struct Cp {
    /// What to copy: a file here, or IMAGE:/PATH
    pub source: String,
    /// Where to: a file or folder here, or IMAGE:/PATH (with --output or --in-place)
    pub target: String,
    /// Copy a directory with all that is in it
    #[arg(short, long)]
    pub recursive: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub destination: Destination,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
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

/// Options of `rm`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost rm disk.vmdk /etc/udev/rules.d/70-persistent-net.rules --output edited.qcow2\n  rehost rm -r disk.qcow2 /var/cache/apt --in-place"
)]
pub struct Rm {
    /// The disk image, or a VMX file
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The files in the guest; a link is removed, not what it leads to
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Remove directories with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub destination: Destination,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
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
