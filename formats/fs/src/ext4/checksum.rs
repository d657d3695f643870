//! The checksums of ext4: crc32c with a seed, and the crc16 of `uninit_bg` descriptors.

/// ext4's crc32c: continued from `seed` and without the final inversion of the usual form.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// CRC-16/ARC continued from `seed`, as the group descriptors of `uninit_bg` use it.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    let mut crc = seed;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 {
                (crc >> 1) ^ 0xa001
            } else {
                crc >> 1
            };
        }
    }
    crc
}

/// CRC-32 most significant bit first (polynomial 0x04c11db7, not inverted at the end), the
/// checksum of version 1 journals.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = seed;
    for byte in bytes {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc & 0x8000_0000 != 0 {
                (crc << 1) ^ 0x04c1_1db7
            } else {
                crc << 1
            };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_crc_catalogue() {
        let text = b"123456789";
        // CRC-32/ISCSI 0xe3069283, CRC-16/ARC 0xbb3d, CRC-32/MPEG-2 0x0376e6e7.
        assert_eq!(!crc32c(!0, text), 0xe306_9283);
        assert_eq!(crc16(0, text), 0xbb3d);
        assert_eq!(crc32_be(!0, text), 0x0376_e6e7);
    }
}
