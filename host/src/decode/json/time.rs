//! RFC 3339 dates and times → days and microseconds. Proleptic Gregorian calendar, years 0000–9999.

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_DAY: i64 = 86_400 * US_PER_SECOND;

/// What stands after the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    None,
    /// seconds east of UTC
    Offset(i64),
}

/// `2026-01-31` → days since 1970-01-01.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    (bytes.len() == 10).then(|| date_prefix(bytes)).flatten()
}

/// `2026-01-31T10:20:30[.123456][Z|±hh:mm]` → microseconds since the epoch (UTC) and the zone that was said.
/// A space may stand for `T`; digits beyond microseconds are cut off (which floors, as they only ever add);
/// a leap second counts as the first second of the next minute.
pub(super) fn parse_timestamp(text: &str) -> Option<(i64, Zone)> {
    let bytes = text.as_bytes();
    let days = date_prefix(bytes.get(..10)?)?;
    if !matches!(bytes.get(10)?, b'T' | b't' | b' ') || bytes.get(13)? != &b':' || bytes.get(16)? != &b':' {
        return None;
    }
    let (hour, minute, second) = (two(bytes, 11)?, two(bytes, 14)?, two(bytes, 17)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction_us = 0;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes.get(at + 1..)?.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let shown = bytes.get(at + 1..at + 1 + digits)?.iter().chain(std::iter::repeat(&b'0')).take(6);
        fraction_us = shown.fold(0, |v, d| v * 10 + i64::from(d - b'0'));
        at += 1 + digits;
    }
    let zone = match bytes.get(at..)? {
        [] => Zone::None,
        [b'Z' | b'z'] => Zone::Offset(0),
        [sign @ (b'+' | b'-'), rest @ ..] => {
            let minutes_at = match rest {
                [_, _, b':', _, _] => 3,
                [_, _, _, _] => 2,
                _ => return None,
            };
            let (hours, minutes) = (two(rest, 0)?, two(rest, minutes_at)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            Zone::Offset(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => return None,
    };
    let east = if let Zone::Offset(seconds) = zone { seconds } else { 0 };
    let seconds = hour * 3600 + minute * 60 + second - east;
    Some((i64::from(days) * US_PER_DAY + seconds * US_PER_SECOND + fraction_us, zone))
}

fn two(bytes: &[u8], at: usize) -> Option<i64> {
    match bytes.get(at..at + 2)? {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

fn date_prefix(bytes: &[u8]) -> Option<i32> {
    if bytes.get(4)? != &b'-' || bytes.get(7)? != &b'-' {
        return None;
    }
    let (year, month, day) = (two(bytes, 0)? * 100 + two(bytes, 2)?, two(bytes, 5)?, two(bytes, 8)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) {
        return None;
    }
    // days_from_civil, Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(parse_date("1970-01-01"), Some(0));
        assert_eq!(parse_date("1969-12-31"), Some(-1));
        assert_eq!(parse_date("2026-01-31"), Some(20_484));
        assert_eq!(parse_date("2000-02-29"), Some(11_016));
        assert_eq!(parse_date("0000-03-01"), Some(-719_468));
        for text in ["1900-02-29", "2026-02-30", "2026-13-01", "2026-00-01", "2026-1-01", "26-01-01", "2026-01-01T", ""]
        {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(parse_timestamp("1970-01-01T00:00:00Z"), Some((0, Zone::Offset(0))));
        assert_eq!(parse_timestamp("1970-01-01 00:00:01"), Some((1_000_000, Zone::None)));
        assert_eq!(parse_timestamp("1970-01-01T01:00:00.1234567+01:00"), Some((123_456, Zone::Offset(3600))));
        assert_eq!(parse_timestamp("1969-12-31t23:59:59.5z"), Some((-500_000, Zone::Offset(0))));
        assert_eq!(parse_timestamp("1970-01-01T00:00:00-0130"), Some((5_400_000_000, Zone::Offset(-5400))));
        assert_eq!(parse_timestamp("2016-12-31T23:59:60Z"), parse_timestamp("2017-01-01T00:00:00Z"));
        for text in [
            "2026-01-01",
            "2026-01-01T",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:60:00Z",
            "é026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}
