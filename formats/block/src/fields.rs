//! Checked access to the fields of an on-disk structure.
//!
//! Parsers read a structure into memory once and take its fields through [`Fields`], which knows
//! where the bytes came from, so that a short structure is an error with a byte offset and never a
//! panic.

use crate::{Error, Result};

/// The bytes of one on-disk structure, with its name and its place in the file.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    structure: &'static str,
    base: u64,
}

macro_rules! integer {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $from:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Corrupt when the structure ends before the field does.
        pub fn $name(&self, at: usize) -> Result<$type> {
            Ok(<$type>::$from(self.array(at)?))
        }
    )*};
}

impl<'a> Fields<'a> {
    /// `bytes` of the structure called `structure`, which begins at byte `base` of its file.
    #[must_use]
    pub const fn new(bytes: &'a [u8], structure: &'static str, base: u64) -> Self {
        Self {
            bytes,
            structure,
            base,
        }
    }

    integer! {
        /// Unsigned 16 bits, little endian, at byte `at` of the structure.
        u16_le: u16, from_le_bytes;
        /// Unsigned 32 bits, little endian, at byte `at` of the structure.
        u32_le: u32, from_le_bytes;
        /// Unsigned 64 bits, little endian, at byte `at` of the structure.
        u64_le: u64, from_le_bytes;
        /// Unsigned 16 bits, big endian, at byte `at` of the structure.
        u16_be: u16, from_be_bytes;
        /// Unsigned 32 bits, big endian, at byte `at` of the structure.
        u32_be: u32, from_be_bytes;
        /// Unsigned 64 bits, big endian, at byte `at` of the structure.
        u64_be: u64, from_be_bytes;
    }

    /// One byte.
    ///
    /// # Errors
    /// Corrupt when the structure ends before it.
    pub fn u8(&self, at: usize) -> Result<u8> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    /// `N` bytes as an array.
    ///
    /// # Errors
    /// Corrupt when the structure ends before them.
    pub fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or_else(|| self.short(at, N))
    }

    /// `len` bytes from `at`.
    ///
    /// # Errors
    /// Corrupt when the structure ends before them.
    pub fn bytes(&self, at: usize, len: usize) -> Result<&'a [u8]> {
        at.checked_add(len)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or_else(|| self.short(at, len))
    }

    /// How many bytes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The offset in the file of byte `at` of the structure.
    #[must_use]
    pub fn offset_of(&self, at: usize) -> u64 {
        self.base
            .saturating_add(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// A corrupt-input error about the field at byte `at` of this structure.
    #[must_use]
    pub fn corrupt(&self, at: usize, what: impl Into<String>) -> Error {
        Error::corrupt(what)
            .in_structure(self.structure)
            .at(self.offset_of(at))
    }

    /// An unsupported-input error about the field at byte `at` of this structure.
    #[must_use]
    pub fn unsupported(&self, at: usize, what: impl Into<String>) -> Error {
        Error::unsupported(what)
            .in_structure(self.structure)
            .at(self.offset_of(at))
    }

    fn short(&self, at: usize, len: usize) -> Error {
        self.corrupt(at, format!("structure ends before a field of {len} bytes"))
            .mismatch(
                format!("at least {} bytes", at.saturating_add(len)),
                self.bytes.len(),
            )
    }
}

/// Whether every byte is zero, at memory speed.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // 64-byte blocks folded with `|` become vector code; a byte loop with an early exit does not.
    let (blocks, tail) = bytes.as_chunks::<64>();
    blocks.chunks(16).all(|group| {
        group
            .iter()
            .fold(0u8, |seen, block| seen | block.iter().fold(0, |a, b| a | b))
            == 0
    }) && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_structure_is_a_corrupt_error_with_its_offset() {
        let error = Fields::new(&[1, 2, 3], "header", 512)
            .u32_le(1)
            .unwrap_err();
        assert_eq!(error.offset(), Some(513));
        assert_eq!(error.structure(), Some("header"));
    }

    #[test]
    fn zero_check_sees_one_bit_anywhere() {
        for len in [0, 1, 63, 64, 65, 1023, 1024, 4097] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    bytes[at] = 1;
                    assert!(!is_zero(&bytes), "byte {at} of {len}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
