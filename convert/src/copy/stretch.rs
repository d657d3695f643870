//! `Stretch`: what is to be done with the units of a chunk, neighbours of one kind joined.

use rehost_block::is_zero;

/// What a unit is to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes to store.
    Data,
    /// Zeroes, which the target is without being told.
    Zero,
    /// Zeroes, where the parent has something else.
    Hide,
    /// What the parent has too.
    Below,
}

/// Whole units of one kind: a range of the chunk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) kind: Kind,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Stretch {
    pub(super) const fn len(&self) -> u64 {
        (self.to - self.from) as u64
    }
}

/// The stretches of `plain` in units of `unit` bytes.
pub(super) fn alone(plain: &[u8], unit: usize) -> Vec<Stretch> {
    joined(plain.chunks(unit).map(|bytes| {
        let kind = if is_zero(bytes) {
            Kind::Zero
        } else {
            Kind::Data
        };
        (kind, bytes.len())
    }))
}

/// The stretches of `plain` over `below`, what a parent has there.
pub(super) fn over(plain: &[u8], below: &[u8], unit: usize) -> Vec<Stretch> {
    joined(
        plain
            .chunks(unit)
            .zip(below.chunks(unit))
            .map(|(bytes, below)| {
                let kind = if bytes == below {
                    Kind::Below
                } else if is_zero(bytes) {
                    Kind::Hide
                } else {
                    Kind::Data
                };
                (kind, bytes.len())
            }),
    )
}

fn joined(units: impl Iterator<Item = (Kind, usize)>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut from = 0;
    for (kind, len) in units {
        let to = from + len;
        match stretches.last_mut() {
            Some(last) if last.kind == kind => last.to = to,
            _ => stretches.push(Stretch { kind, from, to }),
        }
        from = to;
    }
    stretches
}
