//! `Shape`: what a target can see of a payload besides its bytes.

use rehost_block::{Error, Result, is_zero};
use rehost_image::Payload;
use serde::{Deserialize, Serialize};

/// Where zeroes are looked for: no target tells apart less.
const SECTOR: usize = 512;

/// Longest payload that is made again: far more than a chunk.
const MOST: u64 = 1 << 30;

/// The shape of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Shape {
    /// Guest bytes.
    #[serde(rename = "p")]
    Plain {
        /// How many.
        #[serde(rename = "l")]
        len: u64,
        /// Which stretches of sectors are zeroes: first and count.
        #[serde(rename = "z", default, skip_serializing_if = "Vec::is_empty")]
        zeroes: Vec<(u32, u32)>,
    },
    /// The length of each packed unit.
    #[serde(rename = "c")]
    Packed(Vec<u32>),
    /// So many zeroes over a parent.
    #[serde(rename = "0")]
    Zero(u64),
}

impl Shape {
    /// The shape of `payload`.
    ///
    /// # Errors
    /// Internal for units of 4 GiB.
    pub(super) fn of(payload: &Payload<'_>) -> Result<Self> {
        Ok(match payload {
            Payload::Plain(bytes) => Self::Plain {
                len: bytes.len() as u64,
                zeroes: zeroes(bytes),
            },
            Payload::Packed(units) => Self::Packed(
                units
                    .iter()
                    .map(|unit| u32::try_from(unit.len()))
                    .collect::<Result<_, _>>()
                    .map_err(|_| Error::internal("a packed unit of 4 GiB"))?,
            ),
            Payload::Zero(len) => Self::Zero(*len),
        })
    }

    /// Gives a payload of this shape to `put`.
    ///
    /// # Errors
    /// What `put` gives; Corrupt for a shape that no payload has.
    pub(super) fn with_payload(&self, put: impl FnOnce(Payload<'_>) -> Result<()>) -> Result<()> {
        let wrong = || Error::corrupt("put has an impossible shape").in_structure("journal");
        match self {
            Self::Plain { len, zeroes } => {
                let mut bytes = vec![0xff; length(*len)?];
                for (first, count) in zeroes {
                    let from = *first as usize * SECTOR;
                    let to = (from + *count as usize * SECTOR).min(bytes.len());
                    bytes.get_mut(from..to).ok_or_else(wrong)?.fill(0);
                }
                put(Payload::Plain(&bytes))
            }
            Self::Packed(units) if units.iter().map(|len| u64::from(*len)).sum::<u64>() <= MOST => {
                put(Payload::Packed(
                    units
                        .iter()
                        .map(|len| vec![0xff; *len as usize].into())
                        .collect(),
                ))
            }
            Self::Zero(len) => put(Payload::Zero(*len)),
            Self::Packed(_) => Err(wrong()),
        }
    }
}

/// The length of a payload as that of a buffer.
pub(super) fn length(len: u64) -> Result<usize> {
    usize::try_from(len)
        .ok()
        .filter(|_| len <= MOST)
        .ok_or_else(|| Error::corrupt("put has an impossible length").in_structure("journal"))
}

fn zeroes(bytes: &[u8]) -> Vec<(u32, u32)> {
    let mut stretches: Vec<(u32, u32)> = Vec::new();
    for (nth, sector) in (0u32..).zip(bytes.chunks(SECTOR)) {
        if is_zero(sector) {
            match stretches.last_mut() {
                Some((first, count)) if *first + *count == nth => *count += 1,
                _ => stretches.push((nth, 1)),
            }
        }
    }
    stretches
}
