//! The binary indexes of `depmod` (`modules.dep.bin`, `modules.alias.bin`, `modules.symbols.bin`): read.
//!
//! Format: kmod's index, version 2.1: big-endian magic `0xB007F457`, version, and the root's offset;
//! then a trie. The upper bits of an offset say which parts the node at its lower 28 bits has: a
//! prefix ending in NUL (bit 31), children (bit 29: first and last character, then an offset for each
//! character between, 0 for none), values (bit 30: a count, then a priority and a string ending in NUL each).

use rehost_block::{Error, Fields, Result};

/// What an index file begins with.
pub const MAGIC: u32 = 0xB007_F457;

/// Major 2, minor 1.
pub const VERSION: u32 = 0x0002_0001;

/// The node has a prefix.
pub const HAS_PREFIX: u32 = 0x8000_0000;
/// The node has values.
pub const HAS_VALUES: u32 = 0x4000_0000;
/// The node has children.
pub const HAS_CHILDREN: u32 = 0x2000_0000;
/// The bits of an offset that are the offset.
pub const OFFSET: u32 = 0x0FFF_FFFF;

/// Longest key. Ours: aliases are under 300 bytes.
const LONGEST_KEY: usize = 4096;

/// One value of an index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// What is looked up.
    pub key: Vec<u8>,
    /// Lower comes first among the values of a key.
    pub priority: u32,
    /// What it gives.
    pub value: Vec<u8>,
}

/// Reads every value of an index, keys in byte order, the values of a key in stored order.
///
/// # Errors
/// Corrupt, with the byte offset, when it is not an index or contradicts itself; Unsupported for
/// another version.
pub fn read(bytes: &[u8]) -> Result<Vec<IndexEntry>> {
    let fields = Fields::new(bytes, "module index", 0);
    if fields.u32_be(0)? != MAGIC {
        return Err(fields
            .corrupt(0, "not a module index")
            .mismatch(format!("{MAGIC:#x}"), format!("{:#x}", fields.u32_be(0)?)));
    }
    if fields.u32_be(4)? >> 16 != VERSION >> 16 {
        return Err(fields
            .unsupported(4, "another version of the module index")
            .mismatch(format!("{VERSION:#x}"), format!("{:#x}", fields.u32_be(4)?)));
    }
    let mut entries = Vec::new();
    // A trie's nodes do not share bytes, and each has at least one: more nodes than bytes means
    // shared or circular links.
    let mut left = bytes.len();
    let mut stack = vec![(Vec::new(), fields.u32_be(8)?)];
    // Ends because `left` falls with every node.
    while let Some((mut key, link)) = stack.pop() {
        let mut at = usize::try_from(link & OFFSET).unwrap_or(usize::MAX);
        left = left
            .checked_sub(1)
            .ok_or_else(|| fields.corrupt(at, "nodes are linked in a circle"))?;
        if link & HAS_PREFIX != 0 {
            let prefix = string(&fields, bytes, at)?;
            key.extend_from_slice(prefix);
            at = at.saturating_add(prefix.len()).saturating_add(1);
        }
        if key.len() > LONGEST_KEY {
            return Err(fields.corrupt(at, "key is longer than 4096 bytes"));
        }
        let mut children = Vec::new();
        if link & HAS_CHILDREN != 0 {
            let (first, last) = (fields.u8(at)?, fields.u8(at.saturating_add(1))?);
            at = at.saturating_add(2);
            for character in first..=last {
                let child = fields.u32_be(at)?;
                at = at.saturating_add(4);
                if child & OFFSET != 0 {
                    let mut key = key.clone();
                    key.push(character);
                    children.push((key, child));
                }
            }
        }
        if link & HAS_VALUES != 0 {
            let count = fields.u32_be(at)?;
            at = at.saturating_add(4);
            for _ in 0..count {
                let priority = fields.u32_be(at)?;
                let value = string(&fields, bytes, at.saturating_add(4))?;
                at = at.saturating_add(value.len()).saturating_add(5);
                entries.push(IndexEntry {
                    key: key.clone(),
                    priority,
                    value: value.to_vec(),
                });
                left = left
                    .checked_sub(value.len().saturating_add(5))
                    .ok_or_else(|| fields.corrupt(at, "nodes share their values"))?;
            }
        }
        // The last pushed is read next, which keeps the keys in order.
        stack.extend(children.into_iter().rev());
    }
    Ok(entries)
}

/// The bytes at `at` up to a NUL.
fn string<'a>(fields: &Fields<'_>, bytes: &'a [u8], at: usize) -> Result<&'a [u8], Error> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter()
        .position(|byte| *byte == 0)
        .and_then(|end| rest.get(..end))
        .ok_or_else(|| fields.corrupt(at, "string does not end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By hand from the format: the keys `a` (value `x`, priority 1) and `abc` (value `y`, 2).
    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [MAGIC, VERSION, 12 | HAS_PREFIX | HAS_CHILDREN | HAS_VALUES] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(b"a\0bb"); // prefix, children 'b'..='b'
        bytes.extend((30 | HAS_PREFIX | HAS_VALUES).to_be_bytes());
        bytes.extend(1u32.to_be_bytes());
        bytes.extend(1u32.to_be_bytes());
        bytes.extend(b"x\0");
        assert_eq!(bytes.len(), 30);
        bytes.extend(b"c\0");
        bytes.extend(1u32.to_be_bytes());
        bytes.extend(2u32.to_be_bytes());
        bytes.extend(b"y\0");
        bytes
    }

    #[test]
    fn every_value_is_found_under_its_whole_key() {
        let entries = read(&sample()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (&entries[0].key[..], &entries[0].value[..]),
            (&b"a"[..], &b"x"[..])
        );
        assert_eq!((&entries[1].key[..], entries[1].priority), (&b"abc"[..], 2));
    }

    #[test]
    fn a_circular_index_is_an_error_with_its_offset() {
        let mut bytes = sample();
        bytes[16..20].copy_from_slice(&(12 | HAS_PREFIX | HAS_CHILDREN).to_be_bytes());
        assert!(read(&bytes).unwrap_err().offset().is_some());
    }

    proptest! {
        #[test]
        fn mutilated_indexes_never_panic(
            flips in prop::collection::vec((0..44usize, any::<u8>()), 0..6), cut in 0..45usize,
        ) {
            let mut bytes = sample();
            for (at, byte) in flips {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut);
            let _ = read(&bytes);
        }
    }
}
