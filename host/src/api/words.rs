//! Times, durations and counts for people.

use crate::runtime::progress::{count, time_of_day};

const DAY_MS: i64 = 86_400_000;

/// `11:58:02` of the UTC day that `now_ms` is in, else with the date.
pub fn time(ms: i64, now_ms: i64) -> String {
    let of_day = time_of_day(ms);
    let of_day = of_day.strip_suffix(".000").unwrap_or(&of_day);
    let day = ms.div_euclid(DAY_MS);
    if day == now_ms.div_euclid(DAY_MS) {
        return of_day.to_owned();
    }
    let (year, month, day) = crate::sink::json::civil(day);
    format!("{year:04}-{month:02}-{day:02} {of_day}")
}

/// `12:00–12:05`
pub fn window(start_ms: i64, end_ms: i64, now_ms: i64) -> String {
    let same_day = start_ms.div_euclid(DAY_MS) == end_ms.div_euclid(DAY_MS);
    let (start, end) = (time(start_ms, now_ms), time(end_ms, if same_day { end_ms } else { now_ms }));
    match (start.strip_suffix(":00"), end.strip_suffix(":00")) {
        (Some(start), Some(end)) => format!("{start}–{end}"),
        _ => format!("{start}–{end}"),
    }
}

/// The two largest units that say something: `250 ms`, `14 s`, `6 min 58 s`, `3 h`, `2 d 1 h`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    if ms < 1_000 {
        return format!("{ms} ms");
    }
    let units = [("d", DAY_MS), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];
    let mut left = ms;
    let mut parts = Vec::new();
    for (name, unit) in units {
        if left >= unit {
            parts.push(format!("{} {name}", left / unit));
            left %= unit;
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

pub fn number(n: i64) -> String {
    count(n.unsigned_abs())
}

/// `1 message`, `1.2M messages`
pub fn of(n: i64, what: &str) -> String {
    format!("{} {what}{}", number(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31T12:00:00Z
    const NOON: i64 = 1_769_860_800_000;

    #[test]
    fn times() {
        assert_eq!(time(NOON - 118_000, NOON), "11:58:02");
        assert_eq!(time(NOON + 250, NOON), "12:00:00.250");
        assert_eq!(time(NOON - DAY_MS, NOON), "2026-01-30 12:00:00");
        assert_eq!(window(NOON, NOON + 300_000, NOON), "12:00–12:05");
        assert_eq!(window(NOON + 5_000, NOON + 10_000, NOON), "12:00:05–12:00:10");
        assert_eq!(window(NOON, NOON + 10_000, NOON), "12:00:00–12:00:10");
        assert_eq!(window(NOON - DAY_MS, NOON - DAY_MS + 300_000, NOON), "2026-01-30 12:00–12:05");
        assert_eq!(window(NOON - 2 * DAY_MS, NOON - DAY_MS, NOON), "2026-01-29 12:00–2026-01-30 12:00");
    }

    #[test]
    fn durations() {
        let all = [0, 999, 14_400, 418_000, 3_600_000, 3_601_000, 2 * DAY_MS + 3_700_000].map(duration);
        assert_eq!(all, ["0 ms", "999 ms", "14 s", "6 min 58 s", "1 h", "1 h", "2 d 1 h"]);
    }

    #[test]
    fn counts() {
        assert_eq!([of(1, "message"), of(1_200_000, "message")], ["1 message", "1.20M messages"]);
    }
}
