//! The 32 bytes of a directory entry: short name, attributes, times, first cluster, length.
//!
//! Source: Microsoft FAT specification, "FAT Directory Structure". Short names are read in code
//! page 437, as Linux does by default. Times have no zone; they are taken as UTC.

use rehost_block::{Fields, Result};

use super::number::put;

/// Bytes of an entry.
pub(super) const LEN: usize = 32;

/// Attribute bits.
pub(super) const READ_ONLY: u8 = 0x01;
pub(super) const LABEL: u8 = 0x08;
pub(super) const DIRECTORY: u8 = 0x10;
pub(super) const ARCHIVE: u8 = 0x20;
/// The four bits that mark a part of a long name, when all are set.
pub(super) const LONG: u8 = 0x0f;

/// First byte of a deleted entry.
pub(super) const DELETED: u8 = 0xe5;

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
                     áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
                     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                     αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

/// 1980-01-01, the first day that can be stored, and the end of 2107, in seconds since 1970.
const FIRST_SECOND: i64 = 315_532_800;
const LAST_SECOND: i64 = 4_354_819_199;

/// A file's or directory's own entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Short {
    /// The bytes, for changing.
    pub(super) raw: [u8; LEN],
    pub(super) attributes: u8,
    /// 0 when it has no content.
    pub(super) first: u32,
    pub(super) size: u32,
    /// Seconds since 1970.
    pub(super) modified: i64,
}

impl Short {
    /// `far`: whether the cluster number has an upper half (FAT32).
    pub(super) fn parse(raw: [u8; LEN], place: u64, width: super::boot::Width) -> Result<Self> {
        let f = Fields::new(&raw, "directory entry", place);
        let upper = match width {
            super::boot::Width::Fat32 => u32::from(f.u16_le(20)?),
            _ => 0,
        };
        Ok(Self {
            attributes: f.u8(11)?,
            first: upper << 16 | u32::from(f.u16_le(26)?),
            size: f.u32_le(28)?,
            modified: seconds(f.u16_le(24)?, f.u16_le(22)?),
            raw,
        })
    }

    pub(super) const fn is_directory(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    /// The eleven bytes of the name.
    pub(super) fn name(&self) -> [u8; 11] {
        self.raw.first_chunk().copied().unwrap_or_default()
    }

    /// Puts a content of `size` bytes from cluster `first` on, changed now.
    pub(super) fn point(&mut self, first: u32, size: u32, now: i64) -> Result<()> {
        let [a, b, c, d] = first.to_le_bytes();
        put(&mut self.raw, 20, &[c, d])?;
        put(&mut self.raw, 26, &[a, b])?;
        put(&mut self.raw, 28, &size.to_le_bytes())?;
        let (date, time) = stamp(now);
        put(&mut self.raw, 18, &date.to_le_bytes())?;
        put(&mut self.raw, 22, &time.to_le_bytes())?;
        put(&mut self.raw, 24, &date.to_le_bytes())?;
        (self.first, self.size) = (first, size);
        Ok(())
    }
}

/// The bytes of a new entry.
pub(super) fn fresh(
    name: &[u8; 11],
    attributes: u8,
    first: u32,
    size: u32,
    now: i64,
) -> Result<[u8; LEN]> {
    let mut raw = [0; LEN];
    put(&mut raw, 0, name)?;
    put(&mut raw, 11, &[attributes])?;
    let (date, time) = stamp(now);
    // Seconds are stored in pairs; the odd one is among the hundredths of the time of creation.
    let odd = if now.rem_euclid(2) == 1 { 100 } else { 0 };
    put(&mut raw, 13, &[odd])?;
    put(&mut raw, 14, &time.to_le_bytes())?;
    put(&mut raw, 16, &date.to_le_bytes())?;
    let mut short = Short {
        raw,
        attributes,
        first,
        size,
        modified: now,
    };
    short.point(first, size, now)?;
    Ok(short.raw)
}

/// A character of code page 437. Byte 5 stands for that of deleted entries.
fn decode(byte: u8) -> char {
    let byte = if byte == 5 { DELETED } else { byte };
    if byte.is_ascii() {
        return char::from(byte);
    }
    UPPER.chars().nth(usize::from(byte & 0x7f)).unwrap_or('_')
}

/// The text of `bytes`, without blanks at its end.
pub(super) fn decoded(bytes: &[u8]) -> String {
    let used = bytes
        .iter()
        .rposition(|byte| *byte != b' ')
        .map_or(0, |at| at.saturating_add(1));
    bytes.iter().take(used).map(|byte| decode(*byte)).collect()
}

/// A short name as it is shown: in the case that Windows NT's bits ask for, with its point.
pub(super) fn shown(raw: &[u8; LEN]) -> String {
    let case = raw.get(12).copied().unwrap_or(0);
    let part = |from: usize, to: usize, lower: bool| -> String {
        let text = decoded(raw.get(from..to).unwrap_or_default());
        if lower {
            text.to_ascii_lowercase()
        } else {
            text
        }
    };
    let (base, tail) = (part(0, 8, case & 0x08 != 0), part(8, 11, case & 0x10 != 0));
    if tail.is_empty() {
        base
    } else {
        format!("{base}.{tail}")
    }
}

/// Days since 1970 of a date in the Gregorian calendar (Hinnant's algorithm).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 {
        year.saturating_sub(1)
    } else {
        year
    };
    let shifted = month.saturating_add(9).rem_euclid(12);
    let of_year = shifted
        .saturating_mul(153)
        .saturating_add(2)
        .div_euclid(5)
        .saturating_add(day)
        .saturating_sub(1);
    let leaps = year
        .div_euclid(4)
        .saturating_sub(year.div_euclid(100))
        .saturating_add(year.div_euclid(400));
    year.saturating_mul(365)
        .saturating_add(leaps)
        .saturating_add(of_year)
        .saturating_sub(719_468)
}

/// Seconds since 1970 of a stored date and time; fields that are out of range count as their first
/// value.
fn seconds(date: u16, time: u16) -> i64 {
    let (date, time) = (i64::from(date), i64::from(time));
    let year = (date >> 9).saturating_add(1980);
    let days = days(year, (date >> 5 & 15).clamp(1, 12), (date & 31).max(1));
    let hour = (time >> 11).min(23).saturating_mul(3600);
    let minute = (time >> 5 & 63).min(59).saturating_mul(60);
    let second = (time & 31).min(29).saturating_mul(2);
    days.saturating_mul(86_400)
        .saturating_add(hour)
        .saturating_add(minute)
        .saturating_add(second)
}

/// Date and time as they are stored.
fn stamp(now: i64) -> (u16, u16) {
    let now = now.clamp(FIRST_SECOND, LAST_SECOND);
    let (day, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    // At most 128 years and 12 months are tried.
    let year = (1980..2107)
        .rev()
        .find(|year| days(*year, 1, 1) <= day)
        .unwrap_or(1980);
    let year = if days(2107, 1, 1) <= day { 2107 } else { year };
    let month = (1..=12)
        .rev()
        .find(|month| days(year, *month, 1) <= day)
        .unwrap_or(1);
    let of_month = day.saturating_sub(days(year, month, 1)).saturating_add(1);
    let date = year.saturating_sub(1980) << 9 | month << 5 | of_month;
    let time = second.div_euclid(3600) << 11
        | second.div_euclid(60).rem_euclid(60) << 5
        | second.rem_euclid(60).div_euclid(2);
    (
        u16::try_from(date).unwrap_or(0x21),
        u16::try_from(time).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_to_the_even_second() {
        for now in [
            FIRST_SECOND,
            951_782_400,
            951_868_798,
            1_709_164_800,
            1_732_243_322,
            LAST_SECOND - 1,
        ] {
            let (date, time) = stamp(now);
            assert_eq!(seconds(date, time), now & !1, "{now}");
        }
        assert_eq!(stamp(0), (0x21, 0));
        assert_eq!(seconds(0, 0), FIRST_SECOND);
        // 2024-02-29 12:34:56 UTC, worked out by hand.
        assert_eq!(
            seconds(44 << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28),
            1_709_210_096
        );
    }

    #[test]
    fn short_names_show_their_case_and_code_page() {
        let mut raw = [b' '; LEN];
        raw[..11].copy_from_slice(b"GRUB    CFG");
        raw[12] = 0x18;
        assert_eq!(shown(&raw), "grub.cfg");
        raw[12] = 0x10;
        assert_eq!(shown(&raw), "GRUB.cfg");
        raw[..11].copy_from_slice(b"\x05\x80\xff        ");
        assert_eq!(shown(&raw), "\u{3c3}\u{c7}\u{a0}");
    }
}
