//! Durations, sizes and instants as they are written in a pipeline file, and back.

use std::str::FromStr;

use toml::value::{Datetime, Offset};

const DURATION_UNITS_MS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS_BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// `"1h30m"` → 5,400,000. Units d, h, m, s, ms; each at most once, the larger first.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = DURATION_UNITS_MS.iter();
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_len)?;
        let (_, ms) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*ms)?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// `"128MiB"` → 134,217,728. Units B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).
pub fn parse_size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = leading_number(text)?;
    let (_, bytes) = SIZE_UNITS_BYTES.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.checked_mul(*bytes)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

/// RFC 3339 with an offset → epoch milliseconds.
pub fn parse_instant_ms(text: &str) -> Option<i64> {
    instant_ms(&Datetime::from_str(text).ok()?)
}

/// None without a date, a time and an offset: a local time is no instant.
pub fn instant_ms(at: &Datetime) -> Option<i64> {
    let (date, time, offset) = (at.date?, at.time?, at.offset?);
    let minutes_east = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let seconds = days_from_civil(i64::from(date.year), i64::from(date.month), i64::from(date.day)) * 86_400
        + i64::from(time.hour) * 3_600
        + (i64::from(time.minute) - minutes_east) * 60
        + i64::from(time.second.unwrap_or(0));
    Some(seconds * 1_000 + i64::from(time.nanosecond.unwrap_or(0) / 1_000_000))
}

/// Days since 1970-01-01 of a date in the Gregorian calendar (Howard Hinnant, "chrono-compatible date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// 5,400,000 → `"1h30m"`.
pub fn show_duration_ms(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut rest = ms;
    let mut out = String::new();
    for (unit, unit_ms) in DURATION_UNITS_MS {
        if rest >= unit_ms {
            out.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    out
}

/// 134,217,728 → `"128MiB"`: the largest binary unit with at most one decimal, rounded down.
pub fn show_bytes(bytes: u64) -> String {
    let binary = SIZE_UNITS_BYTES.iter().filter(|(name, _)| name.ends_with("iB"));
    match binary.clone().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => match (bytes % unit) * 10 / unit {
            0 => format!("{}{name}", bytes / unit),
            tenth => format!("{}.{tenth}{name}", bytes / unit),
        },
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for (text, ms) in
            [("5m", 300_000), ("30s", 30_000), ("1h30m", 5_400_000), ("500ms", 500), ("1d2h3m4s5ms", 93_784_005)]
        {
            assert_eq!(parse_duration_ms(text), Some(ms), "{text}");
            assert_eq!(show_duration_ms(ms), text);
        }
        assert_eq!(parse_duration_ms("0s"), Some(0));
        for bad in ["", "5", "m", "5 m", "5min", "30s1m", "5m5m", "-5m", "1.5s", "99999999999999999999d"] {
            assert_eq!(parse_duration_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("128MiB", 134_217_728), ("2GiB", 2_147_483_648), ("1 kB", 1_000), ("7B", 7)] {
            assert_eq!(parse_size_bytes(text), Some(bytes), "{text}");
        }
        for bad in ["", "128", "MiB", "128mib", "1.5GiB", "99999999999TiB"] {
            assert_eq!(parse_size_bytes(bad), None, "{bad}");
        }
        assert_eq!(show_bytes(134_217_728), "128MiB");
        assert_eq!(show_bytes(1_610_612_736), "1.5GiB");
        assert_eq!(show_bytes(12), "12B");
    }

    #[test]
    fn instants() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-01T00:00:00Z", 1_767_225_600_000),
            ("2024-02-29T12:30:15.250+02:00", 1_709_202_615_250),
            ("1969-12-31T23:59:59.999Z", -1),
        ] {
            assert_eq!(parse_instant_ms(text), Some(ms), "{text}");
        }
        for local in ["2026-01-01", "2026-01-01T00:00:00", "12:00:00", "now"] {
            assert_eq!(parse_instant_ms(local), None, "{local}");
        }
    }
}
