//! The clocks of a PC that are not KVM's: the MC146818 real-time clock, read only, and the
//! ACPI power management timer.
//!
//! The real-time clock gives the host's time in UTC, as BCD in 24-hour form. Leaves out on purpose:
//! setting it, its alarm and its periodic interrupt (writes are accepted and forgotten, save to
//! the scratch registers, which read back).

use std::time::{Duration, Instant, SystemTime};

/// The CMOS register that holds the century.
pub(super) const CENTURY: u8 = 0x32;

const REGISTER_A: u8 = 0xa;
const REGISTER_B: u8 = 0xb;
const REGISTER_C: u8 = 0xc;
const REGISTER_D: u8 = 0xd;
/// 32,768 Hz time base, no update in progress.
const RUNNING: u8 = 0x26;
/// 24-hour form, BCD.
const HOURS_24: u8 = 0x02;
/// The battery is good.
const VALID: u8 = 0x80;

/// Frequency of the power management timer (ACPI 6.5, section 4.8.2.1), in Hz.
const PM_FREQUENCY: u128 = 3_579_545;

/// The real-time clock behind its two ports.
#[derive(Debug)]
pub(super) struct Cmos {
    index: u8,
    scratch: [u8; 128],
}

impl Default for Cmos {
    fn default() -> Self {
        Self {
            index: 0,
            scratch: [0; 128],
        }
    }
}

impl Cmos {
    /// A write to the index port; its top bit masks NMI and selects nothing.
    pub(super) const fn select(&mut self, index: u8) {
        self.index = index & 0x7f;
    }

    /// A write to the value port.
    pub(super) fn write(&mut self, value: u8) {
        if let Some(byte) = self.scratch.get_mut(usize::from(self.index)) {
            *byte = value;
        }
    }

    /// A read of the value port at `now`.
    pub(super) fn read(&self, now: SystemTime) -> u8 {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let date = Date::from_unix(since);
        match self.index {
            0 => bcd(date.second),
            2 => bcd(date.minute),
            4 => bcd(date.hour),
            6 => date.weekday,
            7 => bcd(date.day),
            8 => bcd(date.month),
            9 => bcd((date.year % 100) as u8),
            CENTURY => bcd((date.year / 100 % 100) as u8),
            REGISTER_A => RUNNING,
            REGISTER_B => HOURS_24,
            REGISTER_C => 0,
            REGISTER_D => VALID,
            other => self.scratch.get(usize::from(other)).copied().unwrap_or(0),
        }
    }
}

const fn bcd(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

#[derive(Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u8,
    day: u8,
    /// 1 is Sunday.
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Date {
    /// The civil date of a time since 1970, in the proleptic Gregorian calendar.
    fn from_unix(since: Duration) -> Self {
        let seconds = since.as_secs();
        let (mut days, in_day) = (seconds / 86_400, seconds % 86_400);
        let weekday = ((days + 4) % 7 + 1) as u8; // 1970-01-01 was a Thursday
        let mut year = 1970;
        // Ends because `days` shrinks by a year's days each round.
        while days >= year_days(year) {
            days -= year_days(year);
            year += 1;
        }
        let mut month = 1;
        // Ends in December: the days left are fewer than the year's.
        while days >= month_days(year, month) {
            days -= month_days(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: days as u8 + 1,
            weekday,
            hour: (in_day / 3600) as u8,
            minute: (in_day / 60 % 60) as u8,
            second: (in_day % 60) as u8,
        }
    }
}

const fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn year_days(year: u64) -> u64 {
    if leap(year) { 366 } else { 365 }
}

const fn month_days(year: u64, month: u8) -> u64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The power management timer's 32-bit count, `started` being its zero.
pub(super) fn pm_timer(started: Instant) -> u32 {
    let ticks = started.elapsed().as_nanos() * PM_FREQUENCY / 1_000_000_000;
    (ticks & u128::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leap_day_is_read_as_bcd() {
        // `date -u -d @1709251199`: Thu Feb 29 23:59:59 UTC 2024
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_199);
        let mut cmos = Cmos::default();
        let read = |cmos: &mut Cmos, index| {
            cmos.select(index);
            cmos.read(now)
        };
        let got: Vec<u8> = [CENTURY, 9, 8, 7, 6, 4, 2, 0]
            .into_iter()
            .map(|index| read(&mut cmos, index))
            .collect();
        assert_eq!(got, [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x59]);
        assert_eq!(read(&mut cmos, 0x8d), VALID);
    }

    #[test]
    fn century_and_year_change_at_the_right_second() {
        // `date -u -d @946684799`: Fri Dec 31 23:59:59 UTC 1999
        let last = Date::from_unix(Duration::from_secs(946_684_799));
        assert_eq!((last.year, last.month, last.day), (1999, 12, 31));
        let first = Date::from_unix(Duration::from_secs(946_684_800));
        assert_eq!(
            (first.year, first.month, first.day, first.second),
            (2000, 1, 1, 0)
        );
    }

    #[test]
    fn scratch_registers_read_back_what_was_written() {
        let mut cmos = Cmos::default();
        cmos.select(0x40);
        cmos.write(0x5a);
        assert_eq!(cmos.read(SystemTime::now()), 0x5a);
    }
}
