//! `create`: from the options of a target to its design, everything that cannot be refused first.

use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::entry::Geometry;
use super::header::MAX_L1_BYTES;
use super::new_header::Plan;
use super::packer::Packer;
use super::refcount;
use super::target::Qcow2Target;
use super::{CompressionType, plain_name};
use crate::{Compat, Compression, Preallocation, Qcow2Options, TargetFiles, TargetSpec};

/// QEMU's defaults.
const DEFAULT_CLUSTER: u32 = 64 << 10;
const DEFAULT_REFCOUNT_BITS: u32 = 16;

/// What does not change while an image is written.
#[derive(Debug)]
pub(super) struct Design {
    pub(super) geometry: Geometry,
    pub(super) header: Plan,
    pub(super) preallocation: Preallocation,
    /// Whether clusters that nothing was put into get a place too.
    pub(super) map_all: bool,
}

/// Begins an image as `spec` asks for.
pub(super) fn create(
    spec: &TargetSpec,
    options: &Qcow2Options,
    storage: Arc<dyn StorageMut>,
    files: &dyn TargetFiles,
) -> Result<Qcow2Target> {
    refuse_contradictions(spec, options)?;
    let geometry = geometry(options)?;
    let packer = spec
        .compression
        .map(|compression| {
            let cluster = usize::try_from(geometry.cluster_size()).unwrap_or(usize::MAX);
            Packer::new(compression, cluster)
        })
        .transpose()?;
    let compression = packer.as_ref().map_or(CompressionType::Zlib, Packer::kind);
    let design = design(spec, options, geometry, compression)?;
    let data = match &options.data_file {
        None => None,
        Some(name) => {
            let name = name.to_str().ok_or_else(|| {
                Error::usage("the data file's name is no text").in_file(name.as_path())
            })?;
            Some(files.create(name)?)
        }
    };
    Qcow2Target::new(design, packer, spec.bitmaps.clone(), storage, data)
}

/// Options that exclude each other.
fn refuse_contradictions(spec: &TargetSpec, options: &Qcow2Options) -> Result<()> {
    let plain_refcounts = matches!(options.refcount_bits, None | Some(DEFAULT_REFCOUNT_BITS));
    let zstd = matches!(spec.compression, Some(Compression::Zstd(_)));
    let outside = options.data_file.is_some();
    let preallocated = options.preallocation != Preallocation::Off;
    let v2 = options.compat == Compat::V2;
    let rules = [
        (v2 && options.extended_l2, "compat=0.10", "extended_l2"),
        (
            v2 && options.lazy_refcounts,
            "compat=0.10",
            "lazy_refcounts",
        ),
        (
            v2 && !plain_refcounts,
            "compat=0.10",
            "refcount_bits other than 16",
        ),
        (v2 && outside, "compat=0.10", "data_file"),
        (v2 && zstd, "compat=0.10", "zstd"),
        (v2 && !spec.bitmaps.is_empty(), "compat=0.10", "bitmaps"),
        (
            outside && spec.compression.is_some(),
            "data_file",
            "compression",
        ),
        (
            options.data_file_raw && spec.backing.is_some(),
            "data_file_raw",
            "a backing file",
        ),
        (
            preallocated && spec.backing.is_some(),
            "preallocation",
            "a backing file",
        ),
        (
            preallocated && spec.compression.is_some(),
            "preallocation",
            "compression",
        ),
    ];
    for (broken, one, other) in rules {
        if broken {
            return Err(
                Error::usage(format!("{one} excludes {other}")).hint("leave one of them out")
            );
        }
    }
    if options.data_file_raw && !outside {
        return Err(
            Error::usage("data_file_raw is about a data file, and there is none")
                .hint("name one with data_file=FILE"),
        );
    }
    Ok(())
}

fn design(
    spec: &TargetSpec,
    options: &Qcow2Options,
    geometry: Geometry,
    compression: CompressionType,
) -> Result<Design> {
    let bits = options.refcount_bits.unwrap_or(DEFAULT_REFCOUNT_BITS);
    if !bits.is_power_of_two() || bits > 64 {
        return Err(Error::usage("qcow2 has no refcounts of this width")
            .mismatch("a power of two up to 64", bits));
    }
    let header = Plan {
        compat: options.compat,
        size: spec.size,
        cluster_bits: geometry.cluster_size().trailing_zeros(),
        extended_l2: options.extended_l2,
        lazy_refcounts: options.lazy_refcounts,
        refcount_order: bits.trailing_zeros(),
        compression,
        backing: spec
            .backing
            .as_ref()
            .map(|backing| (plain_name(&backing.name), backing.format)),
        data_file: options.data_file.as_deref().map(plain_name),
        data_file_raw: options.data_file_raw,
    };
    header.check()?;
    check_size(spec.size, &geometry, header.refcount_order)?;
    Ok(Design {
        geometry,
        preallocation: options.preallocation,
        // Who writes to a raw data file by itself must find every cluster mapped.
        map_all: options.preallocation != Preallocation::Off || options.data_file_raw,
        header,
    })
}

fn geometry(options: &Qcow2Options) -> Result<Geometry> {
    let cluster = options.cluster_size.unwrap_or(DEFAULT_CLUSTER);
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return Err(Error::usage("qcow2 has no clusters of this size")
            .mismatch("a power of two from 512 to 2097152", cluster));
    }
    Geometry::new(cluster.trailing_zeros(), options.extended_l2).ok_or_else(|| {
        Error::usage("extended L2 entries need larger clusters").mismatch("at least 16384", cluster)
    })
}

/// The tables of the whole disk must be such as QEMU takes.
fn check_size(size: u64, geometry: &Geometry, refcount_order: u32) -> Result<()> {
    let l1_entries = geometry.l1_entries(size);
    if l1_entries.saturating_mul(8) > MAX_L1_BYTES {
        let most = geometry.l2_span().saturating_mul(MAX_L1_BYTES / 8);
        return Err(Error::usage("disk is too large for this cluster size")
            .mismatch(format!("at most {most} bytes"), size)
            .hint("choose larger clusters"));
    }
    // Were every cluster stored, the refcounts would still have to fit.
    let most = size
        .div_ceil(geometry.cluster_size())
        .saturating_add(l1_entries.saturating_mul(2))
        .saturating_add(2);
    refcount::Layout::new(geometry, refcount_order, most).map(|_| ())
}
