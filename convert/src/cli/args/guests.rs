//! The options of the commands that look into a guest, change it, boot it, or offer its disk.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use rehost_image::Compression;
use rehost_runtime::Mac;

use super::{Booting, Earlier, MoreDisks, Opening, Reporting, Writing};

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A disk image, a VMX file, or a libvirt domain (.xml)
    #[arg(value_hint = ValueHint::FilePath)]
    pub source: PathBuf,
    /// Show the disks and what lies on them only, as `rehost lsblk` does
    #[arg(long)]
    pub volumes: bool,
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

/// The hardware a guest is prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hypervisor {
    /// KVM with virtio disks and network
    Kvm,
    /// VMware: pvscsi and LSI disks, vmxnet3
    Vmware,
    /// Hyper-V and Azure: synthetic disks and network
    Hyperv,
    /// A physical machine: AHCI, NVMe and common RAID adapters
    Physical,
}

/// What a guest talks on besides its screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuestConsole {
    /// The first serial port, with a login
    Serial,
}

/// What is changed in the guest beyond what booting needs.
#[derive(Debug, Clone, Args)]
pub struct Editing {
    /// Give the guest such a console for good (without it, only the proof's copy has one)
    #[arg(long, value_name = "KIND")]
    pub console: Option<GuestConsole>,

    /// The bus of the new machine's disks (for kvm: virtio-blk, virtio-scsi, sata, nvme, ide; another
    /// target names its own when it does not have the one given); without it, the guest is prepared
    /// for all usual ones
    #[arg(long, value_name = "BUS")]
    pub disk_bus: Option<String>,

    /// Which system is meant, when there are several: the volume its root is on, as DISK:PARTITION,
    /// PARTITION of the first disk, VG/LV, or UUID; without it, the first with a boot menu
    #[arg(long, value_name = "VOLUME")]
    pub root: Option<String>,

    /// Go on although the guest would not boot on its new hardware for the reason of this name, as
    /// the plan calls it: luks-hardware-key, verity-root, … (may be repeated)
    #[arg(long, value_name = "REASON")]
    pub accept: Vec<String>,

    /// Have the guest run this script once, when it first boots on its new hardware; what it prints
    /// goes to /var/log/rehost-first-boot.log in the guest (may be repeated)
    #[arg(long, visible_alias = "firstboot", value_name = "SCRIPT", value_hint = ValueHint::FilePath)]
    pub first_boot: Vec<PathBuf>,

    /// Have the guest install this package (deb, rpm or apk, with what it has itself) when it first
    /// boots on its new hardware, before any script (may be repeated)
    #[arg(long = "package", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub packages: Vec<PathBuf>,

    /// The same for the package of QEMU's guest agent, where the guest has none; its service is started
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub guest_agent: Option<PathBuf>,

    /// Print the plan and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `inject`.
#[derive(Debug, Args)]
pub struct Inject {
    /// The disk image to read; without --in-place it is never written to
    #[arg(value_hint = ValueHint::FilePath)]
    pub source: PathBuf,
    /// The disk image to write: the edited copy
    #[arg(value_hint = ValueHint::FilePath, required_unless_present_any = ["dry_run", "in_place"], conflicts_with = "in_place")]
    pub target: Option<PathBuf>,
    /// Change the image itself; what it held is kept in IMAGE.rehost-undo, and `rehost undo` puts it
    /// back bit for bit
    #[arg(long)]
    pub in_place: bool,
    /// The hardware to prepare the guest for
    #[arg(long = "for", value_name = "HYPERVISOR", default_value = "kvm")]
    pub hypervisor: Hypervisor,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub editing: Editing,
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

/// The virtual bus of the disks. All but the first need QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootBus {
    /// virtio-blk
    VirtioBlk,
    /// virtio-scsi
    VirtioScsi,
    /// AHCI
    #[value(alias = "sata")]
    Ahci,
    /// NVMe
    Nvme,
    /// IDE (PIIX3)
    Ide,
    /// VMware's pvscsi
    Pvscsi,
    /// LSI 53C895A (sym53c8xx): what QEMU calls lsilogic
    Lsi,
    /// LSI SAS1068 (mptsas)
    #[value(name = "lsisas1068")]
    LsiSas,
    /// MegaRAID SAS 2108
    Megaraid,
    /// USB mass storage
    Usb,
}

/// The network cards of a guest that is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Card {
    /// virtio-net
    Virtio,
    /// VMware's VMXNET 3
    Vmxnet3,
    /// Intel 82574L
    E1000e,
    /// Intel 82545EM
    E1000,
}

/// What a machine has, where its description or its disks do not say it, or are not to be followed.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    /// Virtual processors of the new machine; without it, as many as the old one had, or 2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=768))]
    pub cpus: Option<u32>,
    /// Memory of the new machine in MiB; without it, as much as the old one had, or 2048
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=25_165_824))]
    pub memory: Option<u64>,
    /// What starts the new machine; without it, what started the old one
    #[arg(long, value_name = "KIND")]
    pub firmware: Option<StartedBy>,
    /// The address (MAC) of a network card, once for each card in order: what the old machine's
    /// description does not say or, with --to physical, what the new machine's cards have
    #[arg(long = "mac", value_name = "ADDRESS")]
    pub macs: Vec<Mac>,
}

/// A machine's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StartedBy {
    /// BIOS
    Bios,
    /// UEFI
    Uefi,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The disk image, a VMX file, or a libvirt domain (.xml); it is never written to
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub more: MoreDisks,
    /// How the guest sees its disks; all but virtio-blk need QEMU
    #[arg(long, default_value = "virtio-blk", value_name = "BUS")]
    pub bus: BootBus,
    /// Virtual processors
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cpus: u8,
    /// Memory in MiB
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub memory: u32,
    /// Let the firmware and the guest's own boot loader start it (QEMU only), instead of placing
    /// the kernel its boot loader would choose into memory. Without a kind, the one that the machine's
    /// description or else its disk says; a UEFI firmware knows no boot entries of the old machine
    #[arg(long, value_name = "KIND", num_args = 0..=1, require_equals = true)]
    pub firmware: Option<Option<StartedBy>>,
    /// Model of the network cards that --check-network gives it
    #[arg(
        long,
        value_name = "CARD",
        default_value = "virtio",
        requires = "check_network"
    )]
    pub nic: Card,
    /// The address (MAC) of a network card, once for each card in order, where no description says it
    #[arg(long = "mac", value_name = "ADDRESS", requires = "check_network")]
    pub macs: Vec<Mac>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub booting: Booting,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rehost serve disk.vmdk --socket /tmp/disk.sock &\n  nbdinfo 'nbd+unix:///?socket=/tmp/disk.sock'"
)]
pub struct Serve {
    /// The disk image; it is never written to
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// The socket to listen on; it is removed at the end
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Let clients write, to an overlay that is thrown away at the end
    #[arg(long)]
    pub overlay: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub earlier: Earlier,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}

/// Options of `migrate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rehost migrate guest.vmx --to kvm -o out/\n  rehost migrate guest.xml --to vmware -o out/ --check-network\n  rehost migrate /dev/sda --disk /dev/sdb --to kvm -o out/ --mac 3c:ec:ef:12:34:56\n  rehost migrate server.qcow2 --to physical --disk-bus nvme -o out/\n\nExit codes: 0 the guest reached its login prompt on its new hardware; 2 error; 3 it did not."
)]
pub struct Migrate {
    /// The machine: a VMX file, a libvirt domain (.xml), or its disk (an image or a device)
    #[arg(value_hint = ValueHint::FilePath)]
    pub source: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub more: MoreDisks,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: Shape,
    /// The hypervisor to move it to
    #[arg(long, value_name = "HYPERVISOR")]
    pub to: Hypervisor,
    /// The folder for the images, the machine's description (.xml, .vmx, .ps1 or .txt) and report.json;
    /// made if missing
    #[arg(short, long, value_name = "FOLDER", value_hint = ValueHint::DirPath, required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Do not boot the edited guest before its disks are copied
    #[arg(long)]
    pub no_preflight: bool,
    /// Do not boot the written image
    #[arg(long)]
    pub no_verify: bool,
    /// Let the new machine's firmware and the guest's own boot loader start the written image (QEMU only),
    /// instead of placing the kernel its boot loader would choose into memory
    #[arg(long, conflicts_with = "no_verify")]
    pub through_firmware: bool,
    /// Compress the written image
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    pub compress: Option<Compression>,
    /// Replace files of an earlier run in the output folder
    #[arg(long)]
    pub force: bool,
    /// Threads that read, pack and write; as many as there are processors if not given
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub editing: Editing,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub booting: Booting,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opening: Opening,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: Reporting,
}
