//! `Chain`: an image over its parents, seen as one disk.
//!
//! Resolves [`Run::Below`] by asking the next layer, and keeps a few decoded units, because a guest
//! reads a compressed cluster in many small pieces.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, Layer, Located, Packed, Run, read_located};
use crate::{Error, Result};

/// Decoded units kept. Ours: 16 units of QEMU's largest cluster (2 MiB) are 32 MiB.
const KEPT_UNITS: usize = 16;

/// An image (the first layer) and its parents, nearest first.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Arc<dyn Layer>>,
    size: u64,
    units: Mutex<VecDeque<Unit>>,
}

/// A decoded unit, known by where its packed bytes are.
#[derive(Debug)]
struct Unit {
    storage: PathBuf,
    offset: u64,
    plain: Arc<Vec<u8>>,
}

impl Chain {
    /// `layers`, the image itself first, each parent after its child.
    ///
    /// # Errors
    /// Usage when there is no layer.
    pub fn new(layers: Vec<Arc<dyn Layer>>) -> Result<Self> {
        let size = layers
            .first()
            .ok_or_else(|| Error::usage("a chain needs a layer"))?
            .size();
        Ok(Self {
            layers,
            size,
            units: Mutex::default(),
        })
    }

    /// The layers, the image itself first.
    #[must_use]
    pub fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }

    fn unpack(&self, packed: &Packed) -> Result<Arc<Vec<u8>>> {
        let same =
            |unit: &Unit| unit.offset == packed.offset && unit.storage == packed.storage.name();
        {
            let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(unit) = units.iter().find(|unit| same(unit)) {
                return Ok(Arc::clone(&unit.plain));
            }
        }
        let plain = Arc::new(packed.decode()?);
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.truncate(KEPT_UNITS.saturating_sub(1));
        units.push_front(Unit {
            storage: packed.storage.name().to_owned(),
            offset: packed.offset,
            plain: Arc::clone(&plain),
        });
        Ok(plain)
    }
}

impl Disk for Chain {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        let left = self.size.saturating_sub(offset);
        if left == 0 {
            return Ok(Located::new(Run::End, 0));
        }
        let mut want = want.min(left);
        for layer in &self.layers {
            let located = layer.locate(offset, want)?;
            match located.run {
                Run::Below => want = located.len.min(want),
                // A parent may be shorter than its child; what it lacks reads as zeroes (QEMU
                // docs/interop/qcow2.txt, "Backing files"; the same for VMDK and VHDX chains).
                Run::End => return Ok(Located::new(Run::Zero, want)),
                run => return Ok(Located::new(run, located.len.min(want))),
            }
        }
        Err(Error::corrupt("data is in a parent that was not opened").at(offset))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        read_located(self, buf, offset, &|packed| self.unpack(packed))
    }
}
