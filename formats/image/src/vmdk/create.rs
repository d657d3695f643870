//! `create`: which writer makes which kind of VMDK.

use std::sync::Arc;

use rehost_block::{Error, Result, StorageMut};

use super::sparse_target::SparseTarget;
use super::stream_target::StreamTarget;
use crate::create::TargetSpec;
use crate::options::{Compression, VmdkKind, VmdkOptions};
use crate::target::{Target, TargetFiles};

/// An empty VMDK as `options` ask for. A compressed one is streamOptimized.
///
/// # Errors
/// Usage for what the kind cannot do; Io when the storage fails.
pub(crate) fn create(
    spec: &TargetSpec,
    options: &VmdkOptions,
    storage: Arc<dyn StorageMut>,
    files: &dyn TargetFiles,
) -> Result<Box<dyn Target>> {
    let _ = files;
    spec.refuse_backing("VMDKs")?;
    match options.kind {
        VmdkKind::MonolithicSparse => {
            spec.refuse_compression("monolithicSparse VMDKs")?;
            let target = SparseTarget::create(storage, spec.size, &spec.name, options.adapter)?;
            Ok(Box::new(target))
        }
        VmdkKind::StreamOptimized => {
            let level = match spec.compression {
                None => StreamTarget::DEFAULT_LEVEL,
                Some(Compression::Zlib(level)) => level,
                Some(Compression::Zstd(_)) => {
                    return Err(Error::usage("streamOptimized VMDKs cannot use zstd")
                        .hint("leave the compression out, or choose zlib"));
                }
            };
            let target =
                StreamTarget::create(storage, spec.size, &spec.name, options.adapter, level)?;
            Ok(Box::new(target))
        }
        kind => Err(Error::unsupported(format!(
            "VMDKs of kind {kind:?} cannot be written"
        ))),
    }
}
