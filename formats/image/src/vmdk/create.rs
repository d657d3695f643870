//! `create`: which writer makes which kind of VMDK.

use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::flat_target::{Files, FlatTarget};
use super::sparse_target::SparseTarget;
use super::stream_target::StreamTarget;
use crate::create::TargetSpec;
use crate::options::{Compression, VmdkKind, VmdkOptions};
use crate::target::{Target, TargetFiles};

/// An empty VMDK as `options` ask for. Only the sparse kinds can have a parent, and only
/// streamOptimized is compressed.
///
/// # Errors
/// Usage for what the kind cannot do; Io when the storage fails; what `files` gives.
pub(crate) fn create(
    spec: &TargetSpec,
    options: &VmdkOptions,
    storage: Arc<dyn StorageMut>,
    files: &dyn TargetFiles,
) -> Result<Box<dyn Target>> {
    let kind = options.kind.as_str();
    if options.kind != VmdkKind::StreamOptimized {
        spec.refuse_compression(&format!("{kind} VMDKs"))?;
    }
    match options.kind {
        VmdkKind::MonolithicSparse => {
            Ok(Box::new(SparseTarget::monolithic(spec, options, storage)?))
        }
        VmdkKind::TwoGbMaxExtentSparse => Ok(Box::new(SparseTarget::split(
            spec, options, storage, files,
        )?)),
        VmdkKind::MonolithicFlat | VmdkKind::TwoGbMaxExtentFlat => {
            refuse_backing(spec, kind)?;
            let kind = match options.kind {
                VmdkKind::MonolithicFlat => Files::One,
                _ => Files::Split,
            };
            Ok(Box::new(FlatTarget::create(
                spec, options, kind, storage, files,
            )?))
        }
        VmdkKind::StreamOptimized => {
            refuse_backing(spec, kind)?;
            let level = match spec.compression {
                None => StreamTarget::DEFAULT_LEVEL,
                Some(Compression::Zlib(level)) => level,
                Some(Compression::Zstd(_)) => {
                    return Err(Error::usage("streamOptimized VMDKs cannot use zstd")
                        .hint("leave the compression out, or choose zlib"));
                }
            };
            Ok(Box::new(StreamTarget::create(
                storage, spec, options, level,
            )?))
        }
    }
}

fn refuse_backing(spec: &TargetSpec, kind: &str) -> Result<()> {
    match spec.backing {
        None => Ok(()),
        Some(_) => Err(
            Error::usage(format!("{kind} VMDKs cannot have a backing file"))
                .hint("write a monolithicSparse VMDK, or leave the backing file out"),
        ),
    }
}
