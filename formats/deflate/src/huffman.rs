//! Prefix codes from counts, with a limit on their lengths.

/// The most symbols an alphabet has.
const MOST: usize = 288;

/// Code lengths for `counts`, none longer than `limit`; 0 for symbols that do not occur.
///
/// Two symbols at least get a code, because some decoders refuse a code of one.
pub(crate) fn lengths(counts: &[u32], limit: usize, lengths: &mut [u8]) {
    // Sorted by count, then symbol: `count << 9 | symbol`.
    let mut sorted = [0u64; MOST];
    let mut used = 0;
    lengths.fill(0);
    for (symbol, count) in counts.iter().enumerate() {
        if *count > 0 {
            sorted[used] = u64::from(*count) << 9 | symbol as u64;
            used += 1;
        }
    }
    if used < 2 {
        // The only symbol (or any) and one that is never written.
        let only = (sorted[0] & 511) as usize;
        lengths[only] = 1;
        lengths[usize::from(only == 0)] = 1;
        return;
    }
    let sorted = &mut sorted[..used];
    sorted.sort_unstable();
    let of_each = codes_per_length(sorted, limit);

    // The rarest get the longest.
    let mut rest = sorted.iter();
    for length in (1..=limit).rev() {
        for entry in rest.by_ref().take(of_each[length] as usize) {
            lengths[(entry & 511) as usize] = length as u8;
        }
    }
}

/// How many codes there are of each length, from the sorted counts. Huffman's tree with two queues:
/// leaves in order, and inner nodes in the order in which they are made, which is by weight.
fn codes_per_length(sorted: &[u64], limit: usize) -> [u32; 16] {
    let used = sorted.len();
    let inner = used - 1;
    let mut weights = [0u64; MOST];
    // For each inner node its parent, later its depth.
    let mut parents = [0u16; MOST];
    let (mut leaf, mut oldest) = (0, 0);
    // Leaves under each inner node directly: 0 to 2.
    let mut leaves = [0u8; MOST];
    for node in 0..inner {
        for _ in 0..2 {
            let take_leaf = leaf < used && (oldest == node || sorted[leaf] >> 9 <= weights[oldest]);
            if take_leaf {
                weights[node] += sorted[leaf] >> 9;
                leaves[node] += 1;
                leaf += 1;
            } else {
                weights[node] += weights[oldest];
                parents[oldest] = node as u16;
                oldest += 1;
            }
        }
    }

    // Depths from the root, the last node, down; too deep leaves are counted at the limit.
    let mut of_each = [0u32; 16];
    let mut depths = [0u16; MOST];
    for node in (0..inner).rev() {
        if node < inner - 1 {
            depths[node] = depths[usize::from(parents[node])] + 1;
        }
        let depth = usize::from(depths[node]) + 1;
        of_each[depth.min(limit)] += u32::from(leaves[node]);
    }

    // What was lifted to the limit takes too much of the code space (Kraft): codes above are made
    // longer by one until it fits.
    let mut taken: u32 = (1..=limit)
        .map(|length| of_each[length] << (limit - length))
        .sum();
    // Ends because every round gives back a part of the space that the limit's codes took.
    while taken > 1 << limit {
        let longer = (1..limit).rev().find(|length| of_each[*length] > 0);
        let Some(length) = longer else { break };
        of_each[length] -= 1;
        of_each[length + 1] += 2;
        of_each[limit] -= 1;
        taken -= 1;
    }
    of_each
}

/// The codes of `lengths`, first bit lowest, as deflate writes them. RFC 1951, 3.2.2.
pub(crate) fn codes(lengths: &[u8], codes: &mut [u16]) {
    let mut of_each = [0u16; 16];
    for length in lengths {
        of_each[usize::from(*length)] += 1;
    }
    of_each[0] = 0;
    let mut next = [0u16; 16];
    for length in 1..16 {
        // The last lengths of a full code end at 1 << 16; nothing has that code.
        next[length] = next[length - 1].wrapping_add(of_each[length - 1]) << 1;
    }
    for (length, code) in lengths.iter().zip(codes) {
        let length = usize::from(*length);
        *code = match length {
            0 => 0,
            _ => next[length].reverse_bits() >> (16 - length),
        };
        next[length] = next[length].wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the code space 1 << 15, how much is taken.
    fn taken(lengths: &[u8]) -> u32 {
        let used = lengths.iter().filter(|length| **length > 0);
        used.map(|length| 1 << (15 - length)).sum()
    }

    #[test]
    fn the_code_of_the_rfc_comes_out() {
        let mut found = [0; 8];
        codes(&[3, 3, 3, 3, 3, 2, 4, 4], &mut found);
        let readable = [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111u16];
        let lengths = [3, 3, 3, 3, 3, 2, 4, 4];
        for ((found, code), length) in found.iter().zip(readable).zip(lengths) {
            assert_eq!(*found, code.reverse_bits() >> (16 - length));
        }
    }

    #[test]
    fn counts_that_want_longer_codes_than_allowed_get_a_full_code() {
        // Fibonacci's numbers make the deepest trees.
        let mut counts = vec![1u32, 1];
        while counts.len() < 40 {
            counts.push(counts[counts.len() - 1] + counts[counts.len() - 2]);
        }
        for limit in [7, 9, 15] {
            let mut found = vec![0; counts.len()];
            lengths(&counts, limit, &mut found);
            assert!(
                found
                    .iter()
                    .all(|length| (1..=limit as u8).contains(length))
            );
            assert_eq!(taken(&found), 1 << 15, "{limit}");
            assert!(found.is_sorted_by(|a, b| a >= b));
        }
    }

    #[test]
    fn few_symbols_get_a_code_that_every_decoder_takes() {
        for counts in [[0, 0, 0, 0], [9, 0, 0, 0], [0, 0, 3, 0], [0, 1, 0, 1]] {
            let mut found = [0; 4];
            lengths(&counts, 15, &mut found);
            assert_eq!(taken(&found), 1 << 15, "{counts:?}");
            assert!(
                counts
                    .iter()
                    .zip(found)
                    .all(|(count, length)| *count == 0 || length > 0)
            );
        }
    }

    #[test]
    fn no_code_is_shorter_in_sum_than_huffmans() {
        // A textbook's example: 45 13 12 16 9 5 takes 224 bits.
        let counts = [45, 13, 12, 16, 9, 5];
        let mut found = [0; 6];
        lengths(&counts, 15, &mut found);
        let bits: u32 = counts
            .iter()
            .zip(found)
            .map(|(n, length)| n * u32::from(length))
            .sum();
        assert_eq!(bits, 224);
    }
}
