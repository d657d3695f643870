//! Thin volumes of a group: pools opened once each, and held against what LVM says of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rehost_block::{Error, Result};

use super::build::{Builder, refused};
use super::group::{Kind, Logical, Segment, ThinPool};
use super::text::broken;
use super::thin::Pool;
use crate::backing::Backing;

/// The pools that were opened, or why they cannot be, by name.
pub(super) type Pools<'a> = BTreeMap<&'a str, Result<Arc<Pool>, String>>;

impl<'a> Builder<'a> {
    /// The `len` bytes of a thin volume.
    pub(super) fn thin(
        &mut self,
        volume: &'a Logical,
        segment: &'a Segment,
        len: u64,
    ) -> Result<Backing> {
        let Kind::Thin {
            pool,
            device,
            origin,
            ..
        } = &segment.kind
        else {
            return Err(Error::internal("a segment that is not thin"));
        };
        if segment.start != 0 {
            return Err(broken("a thin volume has several segments", segment.at));
        }
        let (pool, said) = self.pool(pool, segment)?;
        let below = match origin {
            Some(name) => Some(self.volume(name, segment.at)?),
            None => None,
        };
        if let Some(thin) = pool.volume(*device, len, below)? {
            return Ok(thin);
        }
        if said.pending {
            return Err(refused(
                volume,
                "a thin volume that was never used since it was made",
            ));
        }
        Err(broken(
            format!("the thin pool knows no device {device}"),
            segment.at,
        ))
    }

    /// The pool called `name`, and what LVM says of it.
    fn pool(&mut self, name: &str, segment: &Segment) -> Result<(Arc<Pool>, &'a ThinPool)> {
        let group = self.group;
        let none = || broken(format!("there is no thin pool {name}"), segment.at);
        let volume = group.logical.iter().find(|volume| volume.name == name);
        let volume = volume.ok_or_else(none)?;
        let [one] = volume.segments.as_slice() else {
            return Err(none());
        };
        let Kind::ThinPool(said) = &one.kind else {
            return Err(none());
        };
        if let Some(known) = self.pools.get(volume.name.as_str()) {
            return match known {
                Ok(pool) => Ok((Arc::clone(pool), said)),
                Err(why) => Err(broken(why.clone(), segment.at)),
            };
        }
        let opened = self.open(said, one).map(Arc::new);
        let kept = match &opened {
            Ok(pool) => Ok(Arc::clone(pool)),
            Err(error) => Err(error.to_string()),
        };
        self.pools.insert(&volume.name, kept);
        opened.map(|pool| (pool, said))
    }

    fn open(&mut self, said: &ThinPool, segment: &Segment) -> Result<Pool> {
        let metadata = self.volume(&said.metadata, segment.at)?;
        let data = self.volume(&said.data, segment.at)?;
        let pool = Pool::open(&metadata, &data, said.chunk)?;
        // LVM notes what it will have the pool do, and the pool counts once it has.
        let due = said.transaction.checked_sub(1).filter(|_| said.pending);
        if pool.transaction != said.transaction && Some(pool.transaction) != due {
            return Err(
                Error::corrupt("the thin pool and its group are not of the same time")
                    .in_structure("thin pool superblock")
                    .at(48)
                    .mismatch(
                        format!("transaction {}", said.transaction),
                        pool.transaction,
                    )
                    .hint("the disks may be copied at different times"),
            );
        }
        Ok(pool)
    }
}
