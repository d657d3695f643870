//! The two forms of a moment: 7 bytes, and 17 digits.
//!
//! Source: ECMA-119, 4th edition, sections 8.4.26.1 and 9.1.5.

/// Seconds since 1970 of a moment of 7 bytes; 0 where it names no day.
pub(super) fn short(raw: &[u8]) -> i64 {
    let &[year, month, day, hour, minute, second, zone] = raw else {
        return 0;
    };
    moment(
        [
            i64::from(year).saturating_add(1900),
            i64::from(month),
            i64::from(day),
            i64::from(hour),
            i64::from(minute),
            i64::from(second),
        ],
        zone,
    )
}

/// Seconds since 1970 of a moment of 16 digits and a time zone; 0 where it names no day.
pub(super) fn long(raw: &[u8]) -> i64 {
    let number = |from: usize, to: usize| {
        let digits = raw.get(from..to)?;
        let text = std::str::from_utf8(digits).ok()?;
        text.parse::<u16>().ok().map(i64::from)
    };
    let parts = || {
        Some([
            number(0, 4)?,
            number(4, 6)?,
            number(6, 8)?,
            number(8, 10)?,
            number(10, 12)?,
            number(12, 14)?,
        ])
    };
    parts().map_or(0, |parts| {
        moment(parts, raw.get(16).copied().unwrap_or_default())
    })
}

/// Zones are in quarters of an hour east of Greenwich.
fn moment(parts: [i64; 6], zone: u8) -> i64 {
    let [year, month, day, hour, minute, second] = parts;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return 0;
    }
    let east = i64::from(i8::from_le_bytes([zone]));
    // Years begin in March, so that the odd day of a leap year is the last.
    let (year, month) = if month > 2 {
        (year, month.saturating_sub(3))
    } else {
        (year.saturating_sub(1), month.saturating_add(9))
    };
    let in_year = month.saturating_mul(153).saturating_add(2) / 5;
    let days = year
        .saturating_mul(365)
        .saturating_add(year.div_euclid(4))
        .saturating_sub(year.div_euclid(100))
        .saturating_add(year.div_euclid(400))
        .saturating_add(in_year)
        .saturating_add(day)
        // From 0000-03-01, counted from its day 1, to 1970-01-01.
        .saturating_sub(719_469);
    days.saturating_mul(86_400)
        .saturating_add(hour.saturating_mul(3600))
        .saturating_add(minute.saturating_mul(60))
        .saturating_add(second)
        .saturating_sub(east.saturating_mul(900))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_date() {
        // `date -u -d @0`, and the last second of a leap day two hours east (`date +%s`).
        assert_eq!(short(&[70, 1, 1, 0, 0, 0, 0]), 0);
        assert_eq!(short(&[124, 2, 29, 23, 59, 59, 8]), 1_709_243_999);
        assert_eq!(long(b"2024022923595900\x08"), 1_709_243_999);
        assert_eq!(long(b"1969123123595900\0"), -1);
        assert_eq!(long(b"0000000000000000\0"), 0);
        assert_eq!(short(&[0; 7]), 0);
    }
}
