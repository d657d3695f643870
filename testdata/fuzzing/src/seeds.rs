//! Seeds: whole files of every kind, small ones, which mutations start from.
//!
//! Made when they are asked for: by the writers here, by foreign tools where they are installed, by hand
//! where neither makes such files. With `REHOST_CORPORA`, its files too, where they are small.

mod corpora;
mod foreign;
mod handmade;
mod texts;

use std::sync::Arc;

use rehost_block::Memory;
use rehost_image::{Format, OneFile, TargetSpec, create};

use crate::{Target, pack};

/// A file to start from.
#[derive(Debug, Clone)]
pub struct Seed {
    /// What it is.
    pub name: String,
    /// Its bytes, [packed](crate::pack).
    pub bytes: Vec<u8>,
}

impl Seed {
    /// `file` as a seed; nothing when it is too long.
    fn new(name: impl Into<String>, file: &[u8]) -> Option<Self> {
        Some(Self {
            name: name.into(),
            bytes: pack(file)?,
        })
    }
}

/// The seeds of `target`. Says which tool it would have needed for more.
#[must_use]
pub fn seeds(target: Target) -> Vec<Seed> {
    let mut seeds = own(target);
    seeds.extend(handmade::seeds(target));
    seeds.extend(foreign::seeds(target));
    seeds.extend(corpora::seeds(target));
    seeds
}

/// What the writers here make.
fn own(target: Target) -> Vec<Seed> {
    let (format, options): (_, &[&str]) = match target {
        Target::Qcow2 => (
            Format::Qcow2,
            &[
                "cluster_size=512",
                "cluster_size=512,compat=0.10",
                "cluster_size=16K,extended_l2=on",
                "cluster_size=4K,refcount_bits=1,lazy_refcounts=on",
                "cluster_size=512,compressed=zlib",
                "cluster_size=4K,compressed=zstd",
            ],
        ),
        Target::Vmdk => (
            Format::Vmdk,
            &[
                "subformat=monolithicSparse",
                "subformat=streamOptimized,compressed=zlib",
            ],
        ),
        Target::Vhd => (
            Format::Vhd,
            &["subformat=dynamic,block_size=512K", "subformat=fixed"],
        ),
        Target::Vhdx => (
            Format::Vhdx,
            &["logical_sector_size=512", "logical_sector_size=4096"],
        ),
        Target::Vdi => (Format::Vdi, &["subformat=dynamic", "subformat=static"]),
        _ => return Vec::new(),
    };
    let image = |words: &&str| Seed::new(*words, &written(format, words));
    options.iter().filter_map(image).collect()
}

/// An image of a small disk: text, noise, and a hole between them.
fn written(format: Format, words: &str) -> Vec<u8> {
    let (words, codec) = words.split_once(",compressed=").unwrap_or((words, ""));
    let mut spec = TargetSpec::new(format, 100 << 10, "disk").unwrap();
    spec.options.parse(words).unwrap();
    spec.compression = (!codec.is_empty()).then(|| codec.parse().unwrap());
    let memory = Arc::new(Memory::new("disk", Vec::new()));
    let target = create(&spec, memory.clone(), &OneFile).unwrap();
    let unit = usize::try_from(target.unit().get()).unwrap();
    for (nth, piece) in disk().chunks(unit).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            let at = (nth * unit) as u64;
            let payload = target.pack(at, piece).unwrap();
            target.put(at, payload).unwrap();
        }
    }
    target.publish().unwrap();
    drop(target);
    memory.to_vec()
}

/// 100 KiB, mostly zero.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 100 << 10];
    for (nth, byte) in disk[..1500].iter_mut().enumerate() {
        *byte = b"text that repeats. "[nth % 19];
    }
    let mut state = 7u32;
    for byte in &mut disk[70_000..71_000] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    disk
}
