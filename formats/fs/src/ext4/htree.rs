//! Hashed directory indexes: the hash functions, and lookup through the tree.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst` (hash tree directories). The hash
//! of case-insensitive directories (SipHash) is left out with them.

use rehost_block::{Fields, Result};

use super::Ext4;
use super::dir::{DirBlock, slots};
use super::features::incompat;
use super::inode::Node;
use super::map::Mapping;
use crate::number::index;

/// The largest hash stands for the end of a directory in the kernel; never produced.
const HASH_END: u32 = 0x7fff_ffff << 1;

/// Hash versions: legacy, half MD4, TEA; 3 more stands for unsigned characters.
const UNSIGNED: u8 = 3;

/// The hash of `name` in a directory; `None` for versions this program does not know.
pub(super) fn hash(version: u8, seed: [u32; 4], name: &[u8]) -> Option<u32> {
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    if seed.iter().any(|word| *word != 0) {
        state = seed;
    }
    let signed = version < UNSIGNED;
    let major = match version {
        0 | 3 => legacy(name, signed),
        1 | 4 => {
            let mut rest = name;
            loop {
                half_md4(&mut state, &words::<8>(rest, signed));
                match rest.get(32..) {
                    Some(more) if !more.is_empty() => rest = more,
                    _ => break,
                }
            }
            state[1]
        }
        2 | 5 => {
            let mut rest = name;
            loop {
                tea(&mut state, &words::<4>(rest, signed));
                match rest.get(16..) {
                    Some(more) if !more.is_empty() => rest = more,
                    _ => break,
                }
            }
            state[0]
        }
        _ => return None,
    };
    let major = major & !1;
    Some(if major == HASH_END {
        (0x7fff_ffff - 1) << 1
    } else {
        major
    })
}

/// One byte of a name as the hash takes it.
fn character(byte: u8, signed: bool) -> u32 {
    if signed {
        i32::from(i8::from_le_bytes([byte])).cast_unsigned()
    } else {
        u32::from(byte)
    }
}

fn legacy(name: &[u8], signed: bool) -> u32 {
    let mut hash = 0x12a3_fe2du32;
    let mut before = 0x37ab_e8f9u32;
    for byte in name {
        let mixed = character(*byte, signed).wrapping_mul(7_152_373);
        let mut next = before.wrapping_add(hash ^ mixed);
        if next & 0x8000_0000 != 0 {
            next = next.wrapping_sub(0x7fff_ffff);
        }
        before = hash;
        hash = next;
    }
    hash << 1
}

/// Up to `N` words of a name, padded with its length.
fn words<const N: usize>(name: &[u8], signed: bool) -> [u32; N] {
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let half = len | len << 8;
    let pad = half | half << 16;
    let mut all = [pad; N];
    let most = name.get(..N.saturating_mul(4)).unwrap_or(name);
    for (word, bytes) in all.iter_mut().zip(most.chunks(4)) {
        let mut value = pad;
        for byte in bytes {
            value = character(*byte, signed).wrapping_add(value << 8);
        }
        *word = value;
    }
    all
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    const ROUNDS: [(u32, [usize; 8], [u32; 4]); 3] = [
        (0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (0x5a82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (nth, (constant, order, shifts)) in ROUNDS.into_iter().enumerate() {
        for (step, place) in order.into_iter().enumerate() {
            let mixed = match nth {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let word = input.get(place).copied().unwrap_or(0);
            let shift = shifts.get(step % 4).copied().unwrap_or(0);
            let turned = a
                .wrapping_add(mixed)
                .wrapping_add(word)
                .wrapping_add(constant)
                .rotate_left(shift);
            // The next step writes what this one calls d.
            (a, b, c, d) = (d, turned, b, c);
        }
    }
    let [s0, s1, s2, s3] = state;
    *s0 = s0.wrapping_add(a);
    *s1 = s1.wrapping_add(b);
    *s2 = s2.wrapping_add(c);
    *s3 = s3.wrapping_add(d);
}

fn tea(state: &mut [u32; 4], input: &[u32; 4]) {
    let [mut b0, mut b1, ..] = *state;
    let [a, b, c, d] = *input;
    let mut sum = 0u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        b0 = b0.wrapping_add(
            (b1 << 4).wrapping_add(a) ^ b1.wrapping_add(sum) ^ (b1 >> 5).wrapping_add(b),
        );
        b1 = b1.wrapping_add(
            (b0 << 4).wrapping_add(c) ^ b0.wrapping_add(sum) ^ (b0 >> 5).wrapping_add(d),
        );
    }
    let [s0, s1, ..] = state;
    *s0 = s0.wrapping_add(b0);
    *s1 = s1.wrapping_add(b1);
}

/// One index block on the way to a leaf.
pub(super) struct Step {
    pub(super) block: DirBlock,
    /// Byte offset of its count and limit.
    pub(super) start: usize,
    pub(super) most: u16,
    pub(super) count: u16,
    /// The entry taken.
    pub(super) taken: u16,
}

impl Step {
    pub(super) fn hash_at(&self, nth: u16) -> Result<u32> {
        if nth == 0 {
            return Ok(0);
        }
        Fields::new(&self.block.bytes, "directory index", 0).u32_le(self.at(nth))
    }

    pub(super) fn block_at(&self, nth: u16) -> Result<u32> {
        Fields::new(&self.block.bytes, "directory index", 0)
            .u32_le(self.at(nth).saturating_add(4))
            .map(|block| block & 0x0fff_ffff)
    }

    pub(super) fn at(&self, nth: u16) -> usize {
        usize::from(nth)
            .saturating_mul(8)
            .saturating_add(self.start)
    }
}

/// A way through the index, root first, and the hash it was taken for.
pub(super) struct Way {
    pub(super) hash: u32,
    pub(super) version: u8,
    pub(super) steps: Vec<Step>,
}

impl Ext4 {
    /// The way to the leaf where `name` belongs; `None` when the index is of a kind this program
    /// does not know.
    pub(super) fn way(&self, node: &Node, mapping: &Mapping, name: &[u8]) -> Result<Option<Way>> {
        let Some(disk) = Self::block_of(mapping, 0) else {
            return Err(Self::hole(node, "directory"));
        };
        let root = self.dir_block(node, 0, disk)?;
        let f = root.fields(self.sb.block_size);
        let stored = f.u8(0x1c)?;
        let levels = f.u8(0x1e)?;
        let deepest = if self.sb.features.incompat(incompat::LARGE_DIR) {
            3
        } else {
            2
        };
        if f.u8(0x1d)? != 8 || f.u8(0x1f)? & 1 != 0 || stored > 2 || levels >= deepest {
            return Ok(None);
        }
        let version = if self.sb.hash_unsigned {
            stored.saturating_add(UNSIGNED)
        } else {
            stored
        };
        let Some(hash) = hash(version, self.sb.hash_seed, name) else {
            return Ok(None);
        };
        let mut way = Way {
            hash,
            version,
            steps: Vec::new(),
        };
        let mut block = root;
        let mut start = 0x20;
        // Ends after at most three levels.
        for level in 0..=levels {
            let step = step(block, start, hash, self.sb.block_size)?;
            let next = step.block_at(step.taken)?;
            way.steps.push(step);
            if level == levels {
                return Ok(Some(way));
            }
            block = self.index_block(node, mapping, next)?;
            start = 8;
        }
        Ok(None)
    }

    /// Reads an index block below the root.
    pub(super) fn index_block(
        &self,
        node: &Node,
        mapping: &Mapping,
        file: u32,
    ) -> Result<DirBlock> {
        let disk = Self::block_of(mapping, u64::from(file))
            .ok_or_else(|| Self::hole(node, "directory index"))?;
        self.dir_block(node, u64::from(file), disk)
    }

    /// Looks `name` up through the index. The outer `None` says that the index cannot tell.
    pub(super) fn find_indexed(&self, node: &Node, name: &[u8]) -> Result<Option<Option<u32>>> {
        if name == b"." || name == b".." {
            return Ok(None);
        }
        let mapping = self.mapping(node)?;
        let Some(mut way) = self.way(node, &mapping, name)? else {
            return Ok(None);
        };
        // Ends because every round moves to a later leaf, and leaves are finite.
        loop {
            let Some(last) = way.steps.last() else {
                return Ok(None);
            };
            let leaf = last.block_at(last.taken)?;
            let block = self.index_block(node, &mapping, leaf)?;
            let f = block.fields(self.sb.block_size);
            for slot in slots(&f, index(self.sb.block_size))? {
                if slot.inode != 0 && slot.name(&block.bytes) == name {
                    return Ok(Some(Some(slot.inode)));
                }
            }
            if !self.next_leaf(node, &mapping, &mut way)? {
                return Ok(Some(None));
            }
        }
    }

    /// Moves to the next leaf when names with the same hash continue there.
    fn next_leaf(&self, node: &Node, mapping: &Mapping, way: &mut Way) -> Result<bool> {
        let mut up = 0usize;
        let depth = way.steps.len();
        // Ends because it goes one level up each round.
        let next = loop {
            let Some(at) = depth.checked_sub(up.saturating_add(1)) else {
                return Ok(false);
            };
            let Some(step) = way.steps.get_mut(at) else {
                return Ok(false);
            };
            if step.taken.saturating_add(1) < step.count {
                step.taken = step.taken.saturating_add(1);
                let hash = step.hash_at(step.taken)?;
                // A set low bit marks a leaf that continues the hash of the one before.
                if hash & !1 != way.hash || hash & 1 == 0 {
                    return Ok(false);
                }
                break step.block_at(step.taken)?;
            }
            up = up.saturating_add(1);
        };
        way.steps.truncate(depth.saturating_sub(up));
        let mut block = next;
        // Ends because it goes one level down each round.
        while way.steps.len() < depth {
            let below = self.index_block(node, mapping, block)?;
            let step = step(below, 8, 0, self.sb.block_size)?;
            block = step.block_at(0)?;
            way.steps.push(step);
        }
        Ok(true)
    }
}

/// Finds the entry of an index block that covers `hash`.
fn step(block: DirBlock, start: usize, hash: u32, block_size: u32) -> Result<Step> {
    let f = block.fields(block_size);
    let most = f.u16_le(start)?;
    let count = f.u16_le(start.saturating_add(2))?;
    let room = f.len().saturating_sub(start) / 8;
    if count == 0 || count > most || usize::from(most) > room {
        return Err(f
            .corrupt(start, "index block has an impossible number of entries")
            .mismatch(format!("1 to {room}"), count));
    }
    let mut found = Step {
        block,
        start,
        most,
        count,
        taken: 0,
    };
    let (mut low, mut high) = (1u16, count);
    // Ends because the range halves each round.
    while low < high {
        let middle = low.midpoint(high);
        if found.hash_at(middle)? > hash {
            high = middle;
        } else {
            low = middle.saturating_add(1);
        }
    }
    found.taken = low.saturating_sub(1);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values are `debugfs -R "dx_hash -h ALG -s SEED NAME"` of e2fsprogs 1.47.0.
    #[test]
    fn hashes_are_those_of_debugfs() {
        let none = [0; 4];
        for (version, name, expected) in HASHES {
            assert_eq!(
                hash(*version, none, name.as_bytes()),
                Some(*expected),
                "{name}"
            );
        }
    }

    const LONG: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ";
    const HASHES: &[(u8, &str, u32)] = &[
        (0, "hello", 0x3225_2546),
        (0, LONG, 0x5246_f858),
        (0, "ünïcödé", 0x225a_136c),
        (1, "hello", 0x1746_da32),
        (1, LONG, 0x386b_f810),
        (1, "ünïcödé", 0xd8e0_cde2),
        (2, "hello", 0x6f5b_b1a8),
        (2, LONG, 0xfbae_ecb4),
        (2, "ünïcödé", 0xe7b7_3cae),
    ];
}
