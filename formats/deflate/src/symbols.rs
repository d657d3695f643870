//! The symbols of lengths and distances. RFC 1951, 3.2.5.

/// Literals, the end of a block, and lengths.
pub(crate) const LITERALS: usize = 286;
/// Distances.
pub(crate) const DISTANCES: usize = 30;
/// The symbol that ends a block.
pub(crate) const END: usize = 256;
/// The first symbol of a length.
pub(crate) const FIRST_LENGTH: usize = 257;
/// The shortest and the longest repeat.
pub(crate) const SHORTEST: usize = 3;
pub(crate) const LONGEST: usize = 258;

/// Extra bits behind each symbol of a length.
pub(crate) const LENGTH_EXTRA: [u8; 29] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];

/// For each length less 3: its symbol less 257.
pub(crate) const LENGTH_SLOT: [u8; 256] = length_slots();

/// For each symbol of a length: the shortest it stands for, less 3.
pub(crate) const LENGTH_BASE: [u8; 29] = length_bases();

const fn length_bases() -> [u8; 29] {
    let mut bases = [0; 29];
    let mut slot = 0;
    let mut base = 0u16;
    while slot < 28 {
        bases[slot] = base as u8;
        base += 1 << LENGTH_EXTRA[slot];
        slot += 1;
    }
    // The longest has a symbol of its own, though the one before could say it.
    bases[28] = 255;
    bases
}

const fn length_slots() -> [u8; 256] {
    let bases = length_bases();
    let mut slots = [0; 256];
    let mut slot = 0;
    let mut length = 0;
    while length < 256 {
        if slot + 1 < 29 && bases[slot + 1] as usize <= length {
            slot += 1;
        }
        slots[length] = slot as u8;
        length += 1;
    }
    slots
}

/// The symbol of distance `distance` (1 or more), and the number of its extra bits.
#[inline]
pub(crate) const fn distance_slot(distance: u16) -> (usize, u32) {
    let back = (distance - 1) as u32;
    if back < 4 {
        return (back as usize, 0);
    }
    let extra = 30 - back.leading_zeros();
    ((2 * extra + (back >> extra)) as usize, extra)
}

/// Extra bits behind each symbol of a distance.
pub(crate) const fn distance_extra(slot: usize) -> u32 {
    (slot as u32 / 2).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symbols_are_those_of_the_rfc() {
        for (length, symbol) in [
            (3, 257),
            (10, 264),
            (11, 265),
            (12, 265),
            (13, 266),
            (257, 284),
        ] {
            assert_eq!(
                usize::from(LENGTH_SLOT[length - 3]) + 257,
                symbol,
                "{length}"
            );
        }
        assert_eq!(LENGTH_SLOT[255], 28);
        assert_eq!(LENGTH_BASE[27], 227 - 3);
        for (distance, slot, extra) in [
            (1, 0, 0),
            (4, 3, 0),
            (5, 4, 1),
            (7, 5, 1),
            (9, 6, 2),
            (193, 15, 6),
            (2049, 22, 10),
            (4096, 23, 10),
        ] {
            assert_eq!(distance_slot(distance), (slot, extra), "{distance}");
            assert_eq!(distance_extra(slot), extra);
        }
    }
}
