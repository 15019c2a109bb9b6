//! Numbers exactly as they are written: decimal digits and a power of ten, never through a double.

/// More digits than any type of ours holds; beyond it a number is out of range, whatever it says.
const DIGITS_MAX: usize = 40;

/// ± digits × 10^exponent. Leading and trailing zeros are gone; zero has no digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exact {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Exact {
    /// Reads what JSON calls a number, plus a leading `+` and leading zeros, which decimals in strings have.
    /// `None` if it is not a number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (mantissa, mut exponent) = match rest.iter().position(|b| *b == b'e' || *b == b'E') {
            Some(at) => (rest.get(..at)?, parse_exponent(rest.get(at + 1..)?)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
            Some(at) => (mantissa.get(..at)?, mantissa.get(at + 1..)?),
            None => (mantissa, &[][..]),
        };
        if whole.is_empty() || (fraction.is_empty() && mantissa.contains(&b'.')) {
            return None;
        }
        if !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        exponent -= i64::try_from(fraction.len()).ok()?;
        let mut digits: Vec<u8> = whole.iter().chain(fraction).map(|b| b - b'0').skip_while(|d| *d == 0).collect();
        while digits.last() == Some(&0) {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            exponent = 0;
        }
        Some(Self { negative, digits, exponent })
    }

    /// The number × 10^shift, floored, and whether that lost nothing. `None` if it has too many digits.
    pub(super) fn scaled(&self, shift: i64) -> Option<(i128, bool)> {
        let exponent = self.exponent.checked_add(shift)?;
        let length = i64::try_from(self.digits.len()).ok()?;
        if self.digits.is_empty() {
            return Some((0, true));
        }
        if length + exponent > i64::try_from(DIGITS_MAX).ok()? - 2 {
            return None;
        }
        let keep = usize::try_from((length + exponent.min(0)).max(0)).ok()?;
        let mut value: i128 = 0;
        for digit in self.digits.iter().take(keep) {
            value = value.checked_mul(10)?.checked_add(i128::from(*digit))?;
        }
        for _ in 0..exponent.max(0) {
            value = value.checked_mul(10)?;
        }
        // trailing zeros are gone: whatever was cut off is not zero
        let exact = keep == self.digits.len();
        Some((if self.negative { -value - i128::from(!exact) } else { value }, exact))
    }
}

/// Exponents beyond this are out of every range; kept small so that sums cannot overflow.
const EXPONENT_MAX: i64 = 1_000_000_000;

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |v, d| (v * 10 + i64::from(d - b'0')).min(EXPONENT_MAX));
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(text: &str, shift: i64) -> Option<(i128, bool)> {
        Exact::parse(text).unwrap().scaled(shift)
    }

    #[test]
    fn is_exact_where_a_double_is_not() {
        assert_eq!(scaled("0.1", 2), Some((10, true)));
        assert_eq!(scaled("9007199254740993", 0), Some((9_007_199_254_740_993, true)));
        assert_eq!(scaled("-1.50", 1), Some((-15, true)));
        assert_eq!(scaled("12e-1", 1), Some((12, true)));
        assert_eq!(scaled("1.2E3", 0), Some((1200, true)));
        assert_eq!(scaled("-0.0", 0), Some((0, true)));
    }

    #[test]
    fn floors_what_does_not_fit() {
        assert_eq!(scaled("1.29", 1), Some((12, false)));
        assert_eq!(scaled("-1.21", 1), Some((-13, false)));
        assert_eq!(scaled("0.0001", 0), Some((0, false)));
        assert_eq!(scaled("-0.0001", 0), Some((-1, false)));
    }

    #[test]
    fn out_of_range_and_nonsense() {
        assert_eq!(scaled("1e39", 0), None);
        assert_eq!(scaled("1e999999999999999999999", 0), None);
        assert_eq!(scaled("1e-999999999999999999999", 0), Some((0, false)));
        assert_eq!(
            scaled("99999999999999999999999999999999999999", 0),
            Some((99_999_999_999_999_999_999_999_999_999_999_999_999, true))
        );
        for text in ["", "-", ".", "1.", ".5", "1e", "1e+", "0x10", "1 ", "NaN", "--1"] {
            assert_eq!(Exact::parse(text), None, "{text}");
        }
    }
}
