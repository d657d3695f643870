//! `FixedEdit`: a fixed VHD changed in place. The guest's bytes are where a raw image has them.

use std::num::NonZeroU64;
use std::sync::Arc;

use rehost_block::{Error, Layer, Located, Result, StorageMut};

use super::SECTOR;
use super::edit::{UNIT, inside};
use super::footer::{Footer, FooterBytes};
use super::open::Fixed;
use super::target::whole;
use crate::blocks::amount;
use crate::create::TargetBacking;
use crate::in_place::LayerMut;
use crate::room::is_device;

/// A fixed VHD that can be changed.
#[derive(Debug)]
pub(super) struct FixedEdit {
    storage: Arc<dyn StorageMut>,
    footer: FooterBytes,
    disk: Fixed,
    /// Where the footer is.
    end: u64,
}

impl FixedEdit {
    /// Opens a fixed disk.
    ///
    /// # Errors
    /// As [`Footer::find`].
    pub(super) fn open(storage: Arc<dyn StorageMut>) -> Result<Self> {
        let found = Footer::find(&*storage)?;
        let (size, _) = found.footer.size();
        let footer = FooterBytes::read(&*storage, &found)?;
        Ok(Self {
            disk: Fixed::new(storage.clone(), size, found.end)?,
            storage,
            footer,
            end: found.end,
        })
    }
}

impl Layer for FixedEdit {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn locate(&self, offset: u64, want: u64) -> Result<Located> {
        self.disk.locate(offset, want)
    }
}

impl LayerMut for FixedEdit {
    fn unit(&self) -> NonZeroU64 {
        UNIT
    }

    fn put(&mut self, offset: u64, plain: &[u8]) -> Result<()> {
        inside(self.size(), offset, amount(plain))?;
        self.storage.write_at(plain, offset)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        inside(self.size(), offset, len)?;
        self.storage.zero_at(offset, len)
    }

    fn forget(&mut self, offset: u64, len: u64) -> Result<()> {
        self.zero(offset, len)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        if whole(size)? != size {
            return Err(
                Error::usage("size cannot be that of a VHD").mismatch("a multiple of 512", size)
            );
        }
        let old = self.size();
        if is_device(&*self.storage) {
            if self.end < size {
                return Err(Error::usage("device is too small")
                    .in_file(self.storage.name())
                    .mismatch(
                        format!("at least {} bytes", size.saturating_add(SECTOR)),
                        self.storage.size(),
                    ));
            }
            self.storage.zero_at(old, size.saturating_sub(old))?;
        } else {
            // Whatever was between the disk and its footer, and the footer itself, is none of the
            // guest's.
            self.storage.set_size(old.min(size))?;
            self.storage.set_size(size.saturating_add(SECTOR))?;
            self.end = size;
        }
        self.disk = Fixed::new(self.storage.clone(), size, self.end)?;
        self.footer.set_size(size);
        self.flush()
    }

    fn set_backing(&mut self, backing: Option<&TargetBacking>) -> Result<()> {
        match backing {
            None => Ok(()),
            Some(_) => Err(Error::usage("a fixed VHD cannot have a parent")
                .hint("convert it into a dynamic one first")),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.footer.touch();
        self.storage.write_at(&self.footer.sealed(), self.end)
    }
}
