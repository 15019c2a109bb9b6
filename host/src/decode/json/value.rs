//! Strings and numbers → values of a column. Shared by both paths, so that they cannot disagree.

use crate::spec::model::TimeUnit;

use super::columns::Value;
use super::number::Exact;
use super::plan::Kind;
use super::time::{Zone, parse_date, parse_timestamp};

/// A string's value in a column of `kind`; `None` if it has none.
pub(super) fn from_text(kind: Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::String => Value::Bytes(text.as_bytes().to_vec()),
        Kind::TimeText => match parse_timestamp(text)? {
            (_, Zone::None) => return None,
            _ => Value::Bytes(text.as_bytes().to_vec()),
        },
        Kind::Binary => Value::Bytes(base64(text.as_bytes())?),
        Kind::Date => Value::Int(parse_date(text)?),
        Kind::Timestamp { zoned, .. } => match parse_timestamp(text)? {
            (_, Zone::None) if zoned => return None,
            (micros, _) => Value::Long(micros),
        },
        Kind::Decimal { precision, scale } => decimal(text, precision, scale)?,
        Kind::Boolean | Kind::Int | Kind::Long | Kind::Float | Kind::Double => return None,
    })
}

/// The value of a number, as it is written, in a column of `kind`; `None` if it has none.
pub(super) fn from_number(kind: Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::Int => Value::Int(i32::try_from(integer(text)?).ok()?),
        Kind::Date => Value::Int(i32::try_from(integer(text)?).ok()?),
        Kind::Long => Value::Long(integer(text)?),
        Kind::Float => Value::Float(text.parse().ok().filter(|v: &f32| v.is_finite())?),
        Kind::Double => Value::Double(text.parse().ok().filter(|v: &f64| v.is_finite())?),
        Kind::Decimal { precision, scale } => decimal(text, precision, scale)?,
        Kind::Timestamp { unit, .. } => Value::Long(match text.parse() {
            Ok(number) => micros(number, unit)?,
            Err(_) => {
                let shift = match unit {
                    TimeUnit::Seconds => 6,
                    TimeUnit::Millis => 3,
                    TimeUnit::Micros => 0,
                    TimeUnit::Nanos => -3,
                };
                i64::try_from(Exact::parse(text)?.scaled(shift)?.0).ok()?
            }
        }),
        Kind::Boolean | Kind::String | Kind::TimeText | Kind::Binary => return None,
    })
}

/// What a column of `kind` takes, for people.
pub(super) fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Boolean => "true or false",
        Kind::Int => "an integer of 32 bits",
        Kind::Long => "an integer of 64 bits",
        Kind::Float | Kind::Double => "a number in range",
        Kind::Decimal { .. } => "a number, or a string holding one, that fits exactly",
        Kind::Date => "\"YYYY-MM-DD\" or days since 1970-01-01",
        Kind::Timestamp { zoned: true, unit } => match unit {
            TimeUnit::Seconds => "epoch seconds or RFC 3339 with a zone",
            TimeUnit::Millis => "epoch milliseconds or RFC 3339 with a zone",
            TimeUnit::Micros => "epoch microseconds or RFC 3339 with a zone",
            TimeUnit::Nanos => "epoch nanoseconds or RFC 3339 with a zone",
        },
        Kind::Timestamp { zoned: false, unit } => match unit {
            TimeUnit::Seconds => "epoch seconds or \"YYYY-MM-DDThh:mm:ss\"",
            TimeUnit::Millis => "epoch milliseconds or \"YYYY-MM-DDThh:mm:ss\"",
            TimeUnit::Micros => "epoch microseconds or \"YYYY-MM-DDThh:mm:ss\"",
            TimeUnit::Nanos => "epoch nanoseconds or \"YYYY-MM-DDThh:mm:ss\"",
        },
        Kind::String => "a string",
        Kind::TimeText => "RFC 3339 with a zone (it is the event time)",
        Kind::Binary => "a base64 string",
    }
}

/// A whole number of some unit → microseconds, floored; `None` beyond 64 bits.
#[inline]
pub(super) fn micros(number: i64, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Seconds => number.checked_mul(1_000_000),
        TimeUnit::Millis => number.checked_mul(1_000),
        TimeUnit::Micros => Some(number),
        TimeUnit::Nanos => Some(number.div_euclid(1_000)),
    }
}

/// `5`, but also `5.0` and `5e0`: some producers write whole numbers so, and nothing is lost.
fn integer(text: &str) -> Option<i64> {
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => match Exact::parse(text)?.scaled(0)? {
            (number, true) => i64::try_from(number).ok(),
            (_, false) => None,
        },
    }
}

fn decimal(text: &str, precision: u8, scale: u8) -> Option<Value> {
    let (value, exact) = Exact::parse(text)?.scaled(i64::from(scale))?;
    let limit = 10u128.checked_pow(u32::from(precision))?;
    (exact && value.unsigned_abs() < limit).then_some(Value::Decimal(value))
}

/// RFC 4648 base64, the standard or the URL-safe alphabet, padding optional; bits that would be lost must be zero.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let body = text.get(..text.len() - padding)?;
    if body.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() / 4 * 3 + 2);
    for group in body.chunks(4) {
        let mut word = 0u32;
        for byte in group {
            word = word << 6
                | u32::from(match byte {
                    b'A'..=b'Z' => byte - b'A',
                    b'a'..=b'z' => byte - b'a' + 26,
                    b'0'..=b'9' => byte - b'0' + 52,
                    b'+' | b'-' => 62,
                    b'/' | b'_' => 63,
                    _ => return None,
                });
        }
        let bytes = group.len() * 6 / 8;
        let [_, all @ ..] = (word << (6 * (4 - group.len()))).to_be_bytes();
        out.extend_from_slice(all.get(..bytes)?);
        if all.get(bytes..)?.iter().any(|b| *b != 0) {
            return None;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        let plain: [&[u8]; 7] = [b"", b"f", b"fo", b"foo", b"foob", b"fooba", b"foobar"];
        let coded = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (plain, coded) in plain.iter().zip(coded) {
            assert_eq!(base64(coded.as_bytes()).as_deref(), Some(*plain));
            assert_eq!(base64(coded.trim_end_matches('=').as_bytes()).as_deref(), Some(*plain));
        }
        assert_eq!(base64(b"-_-_"), base64(b"+/+/"));
        for text in ["Z", "Zg=", "Zg===", "Zh==", "Zm9", "====", "Z g=", "Zg==Zg=="] {
            assert!(text == "Zm9" || base64(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(base64(b"Zm9"), None, "the last two bits are not zero");
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let kind = Kind::Decimal { precision: 5, scale: 2 };
        assert_eq!(from_text(kind, "123.4500"), Some(Value::Decimal(12_345)));
        assert_eq!(from_number(kind, "-1e2"), Some(Value::Decimal(-10_000)));
        assert_eq!(from_number(kind, "1.005"), None, "too many digits after the point");
        assert_eq!(from_number(kind, "1000"), None, "too many digits");
        let largest = "99999999999999999999999999999999999999";
        assert!(from_number(Kind::Decimal { precision: 38, scale: 0 }, largest).is_some());
    }

    #[test]
    fn whole_numbers_however_written() {
        assert_eq!(from_number(Kind::Int, "2147483647"), Some(Value::Int(i32::MAX)));
        assert_eq!(from_number(Kind::Int, "2147483648"), None);
        assert_eq!(from_number(Kind::Long, "9223372036854775807"), Some(Value::Long(i64::MAX)));
        assert_eq!(from_number(Kind::Long, "9223372036854775808"), None);
        assert_eq!(from_number(Kind::Long, "5.0"), Some(Value::Long(5)));
        assert_eq!(from_number(Kind::Long, "5e2"), Some(Value::Long(500)));
        assert_eq!(from_number(Kind::Long, "5.5"), None);
        assert_eq!(from_number(Kind::Double, "1e309"), None);
        assert_eq!(from_number(Kind::Float, "1e39"), None);
    }

    #[test]
    fn times_are_floored() {
        let kind = |unit| Kind::Timestamp { unit, zoned: true };
        assert_eq!(from_number(kind(TimeUnit::Nanos), "-1"), Some(Value::Long(-1)));
        assert_eq!(
            from_number(kind(TimeUnit::Seconds), "1700000000.1234567"),
            Some(Value::Long(1_700_000_000_123_456))
        );
        assert_eq!(from_number(kind(TimeUnit::Millis), "-0.0005"), Some(Value::Long(-1)));
        assert_eq!(from_number(kind(TimeUnit::Seconds), "9223372036854775"), None);
        assert_eq!(from_text(kind(TimeUnit::Millis), "2026-01-31T00:00:00"), None, "no zone");
    }
}
