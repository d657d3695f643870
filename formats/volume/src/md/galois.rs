//! The field of 256 elements that RAID 6 counts in.
//!
//! After H. P. Anvin, "The mathematics of RAID-6": polynomial `0x11d`, generator 2.

/// `a` times two.
const fn double(a: u8) -> u8 {
    let carry = if a & 0x80 != 0 { 0x1d } else { 0 };
    (a << 1) ^ carry
}

/// `a` times `b`.
pub(crate) const fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    // Ends because `b` loses a bit in every round.
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

/// Two to the power of `exponent`.
pub(crate) fn power(exponent: usize) -> u8 {
    (0..exponent % 255).fold(1, |value, _| double(value))
}

/// What `a` (not zero) must be multiplied with to be one: `a` to the power of 254.
pub(crate) fn inverse(a: u8) -> u8 {
    (0..254).fold(1, |value, _| times(value, a))
}

/// `into` plus `factor` times `from`, byte for byte.
pub(crate) fn add_times(into: &mut [u8], from: &[u8], factor: u8) {
    if factor == 1 {
        for (to, byte) in into.iter_mut().zip(from) {
            *to ^= byte;
        }
        return;
    }
    let table = table(factor);
    for (to, byte) in into.iter_mut().zip(from) {
        *to ^= table.get(usize::from(*byte)).copied().unwrap_or(0);
    }
}

/// `bytes` times `factor`.
pub(crate) fn scale(bytes: &mut [u8], factor: u8) {
    let table = table(factor);
    for byte in bytes {
        *byte = table.get(usize::from(*byte)).copied().unwrap_or(0);
    }
}

fn table(factor: u8) -> [u8; 256] {
    let mut table = [0; 256];
    for (place, byte) in table.iter_mut().zip(0..=255u8) {
        *place = times(byte, factor);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_but_zero_has_an_inverse() {
        for a in 1..=255 {
            assert_eq!(times(a, inverse(a)), 1, "{a}");
        }
    }

    #[test]
    fn two_generates_the_field() {
        let powers: std::collections::BTreeSet<u8> = (0..255).map(power).collect();
        assert_eq!(powers.len(), 255);
        assert_eq!(power(8), 0x1d);
    }
}
