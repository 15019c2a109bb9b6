//! The fast path: one pass over a flat object, values straight into the columns, guided by what is expected next.
//!
//! It reads the common message and nothing else: members of the top level that are strings without escapes, plain
//! numbers, `true`, `false`, `null`. At anything unusual (escapes, nesting, exponents, long numbers, a wrong type, a
//! missing column, broken syntax) it gives up, the caller rolls the row back, and the slow path decides. So it may
//! refuse whatever it likes, but what it accepts the slow path accepts with the same values.

use super::columns::{Bytes, Table, Value, Values, set};
use super::plan::{Key, Kind, Node, Plan};
use super::value;

/// How far a double's mantissa and power of ten are exact, so that one division rounds correctly.
const EXACT_DIGITS_MAX: u32 = 15;
const POWERS_OF_TEN: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// What always fits 64 bits, signed.
const DIGITS_MAX: u32 = 18;

/// Reads one message, known to be UTF-8, into the row under construction. True: the row has been ended.
pub(super) fn scan(plan: &mut Plan, table: &mut Table, message: &[u8]) -> bool {
    match members(plan, table, message) {
        Some(valid) => {
            table.end_row(&[valid]);
            true
        }
        None => false,
    }
}

/// The columns that have got a value, as bits.
fn members(plan: &mut Plan, table: &mut Table, m: &[u8]) -> Option<u64> {
    let mut at = skip_space(m, 0);
    if *m.get(at)? != b'{' {
        return None;
    }
    at = skip_space(m, at + 1);
    let (mut seen, mut valid) = (0u64, 0u64);
    let mut previous = 0; // column + 1
    loop {
        let (column, after_key) = key(plan, m, at, previous)?;
        at = skip_space(m, after_key);
        match column {
            Some(column) => {
                let bit = 1u64 << column;
                if seen & bit != 0 {
                    return None;
                }
                seen |= bit;
                let (end, is_null) = value(plan.columns.get(column)?.kind, table, column, m, at)?;
                if !is_null {
                    valid |= bit;
                }
                previous = column + 1;
                at = end;
            }
            None => at = skip_scalar(m, at)?,
        }
        at = skip_space(m, at);
        match *m.get(at)? {
            b',' => at = skip_space(m, at + 1),
            b'}' => break,
            _ => return None,
        }
    }
    if skip_space(m, at + 1) != m.len() || plan.required_bits & !valid != 0 {
        return None;
    }
    Some(valid)
}

/// The column that the key at `at` names (none: ignored), and the byte after its colon.
#[inline]
fn key(plan: &mut Plan, m: &[u8], at: usize, previous: usize) -> Option<(Option<usize>, usize)> {
    let guess = plan.follow.get(previous).copied().unwrap_or(0);
    if let Some(key) = plan.columns.get(guess).and_then(|c| c.key.as_ref())
        && matches(key, m, at)
    {
        return Some((Some(guess), at + key.text.len()));
    }
    let (column, after) = find_key(&plan.root, m, at)?;
    if let (Some(column), Some(follow)) = (column, plan.follow.get_mut(previous)) {
        *follow = column;
    }
    Some((column, after))
}

#[inline]
fn matches(key: &Key, m: &[u8], at: usize) -> bool {
    let rest = m.get(at..).unwrap_or(&[]);
    match rest.first_chunk::<16>() {
        Some(chunk) if key.text.len() <= 16 => u128::from_le_bytes(*chunk) & key.mask == key.word,
        _ => rest.starts_with(&key.text),
    }
}

#[cold]
fn find_key(root: &Node, m: &[u8], at: usize) -> Option<(Option<usize>, usize)> {
    if *m.get(at)? != b'"' {
        return None;
    }
    let end = string_end(m, at + 1)?;
    let name = m.get(at + 1..end)?;
    let colon = skip_space(m, end + 1);
    if *m.get(colon)? != b':' {
        return None;
    }
    match root.children.get(name) {
        None => Some((None, colon + 1)),
        // a key that a path goes on from: the slow path follows it
        Some(node) if !node.children.is_empty() => None,
        Some(node) => Some((node.column, colon + 1)),
    }
}

/// Reads one value into a column: the byte after it, and whether it was null.
#[inline]
fn value(kind: Kind, table: &mut Table, column: usize, m: &[u8], at: usize) -> Option<(usize, bool)> {
    let row = table.rows;
    let values = table.columns.get_mut(column)?;
    let end = match *m.get(at)? {
        b'"' => match (kind, values) {
            (Kind::String, Values::Bytes(bytes)) => copy_string(m, at + 1, bytes)?,
            (Kind::Date | Kind::Timestamp { .. } | Kind::Decimal { .. } | Kind::Binary, _) => {
                let end = string_end(m, at + 1)?;
                let text = std::str::from_utf8(m.get(at + 1..end)?).ok()?;
                put(table, column, value::from_text(kind, text)?)?;
                end + 1
            }
            _ => return None,
        },
        b'-' | b'0'..=b'9' => {
            let number = number(m, at)?;
            match (kind, values) {
                (Kind::Long, Values::Long(v)) => ok(set(v, row, number.integer()?))?,
                (Kind::Timestamp { unit, .. }, Values::Long(v)) => {
                    ok(set(v, row, value::micros(number.integer()?, unit)?))?;
                }
                (Kind::Double, Values::Double(v)) => ok(set(v, row, number.double()?))?,
                (Kind::Int | Kind::Date, Values::Int(v)) => {
                    ok(set(v, row, i32::try_from(number.integer()?).ok()?))?;
                }
                (Kind::Float | Kind::Decimal { .. }, _) => {
                    let text = std::str::from_utf8(m.get(at..number.end)?).ok()?;
                    put(table, column, value::from_number(kind, text)?)?;
                }
                _ => return None,
            }
            number.end
        }
        b't' | b'f' => match values {
            Values::Boolean(v) => {
                let (end, truth) = literal(m, at)?;
                ok(set(v, row, truth?))?;
                end
            }
            _ => return None,
        },
        b'n' => return Some((literal(m, at)?.0, true)),
        _ => return None,
    };
    Some((end, false))
}

#[inline]
fn ok(done: bool) -> Option<()> {
    done.then_some(())
}

fn put(table: &mut Table, column: usize, value: Value) -> Option<()> {
    ok(table.put(column, value))
}

/// `true`, `false`, `null`: the byte after it and what it says.
fn literal(m: &[u8], at: usize) -> Option<(usize, Option<bool>)> {
    let rest = m.get(at..)?;
    if rest.starts_with(b"true") {
        Some((at + 4, Some(true)))
    } else if rest.starts_with(b"false") {
        Some((at + 5, Some(false)))
    } else if rest.starts_with(b"null") {
        Some((at + 4, None))
    } else {
        None
    }
}

/// The byte after a value that nobody wants.
fn skip_scalar(m: &[u8], at: usize) -> Option<usize> {
    match *m.get(at)? {
        b'"' => Some(string_end(m, at + 1)? + 1),
        b'-' | b'0'..=b'9' => Some(number(m, at)?.end),
        b't' | b'f' | b'n' => Some(literal(m, at)?.0),
        _ => None,
    }
}

#[inline]
fn skip_space(m: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = m.get(at) {
        at += 1;
    }
    at
}

struct Number {
    negative: bool,
    mantissa: u64,
    digits: u32,
    fraction_digits: u32,
    end: usize,
}

impl Number {
    #[inline]
    fn integer(&self) -> Option<i64> {
        if self.fraction_digits != 0 {
            return None;
        }
        let value = i64::try_from(self.mantissa).ok()?;
        Some(if self.negative { -value } else { value })
    }

    /// Both parts are exact, so the one division is rounded correctly (Clinger's fast path).
    #[inline]
    #[allow(clippy::cast_precision_loss, reason = "at most 15 digits: exact")]
    fn double(&self) -> Option<f64> {
        if self.digits > EXACT_DIGITS_MAX {
            return None;
        }
        let power = POWERS_OF_TEN.get(usize::try_from(self.fraction_digits).ok()?)?;
        let value = self.mantissa as f64 / power;
        Some(if self.negative { -value } else { value })
    }
}

/// A number of at most 18 digits without an exponent. (An `e` after it is met, and refused, where a comma must be.)
#[inline]
fn number(m: &[u8], at: usize) -> Option<Number> {
    let negative = *m.get(at)? == b'-';
    let start = at + usize::from(negative);
    let (mut mantissa, mut end) = digits(m, start, 0);
    let whole = end - start;
    if whole == 0 || (whole > 1 && m.get(start) == Some(&b'0')) {
        return None;
    }
    let mut fraction = 0;
    if m.get(end) == Some(&b'.') {
        let from = end + 1;
        (mantissa, end) = digits(m, from, mantissa);
        fraction = end - from;
        if fraction == 0 {
            return None;
        }
    }
    let digits = u32::try_from(whole + fraction).ok()?;
    (digits <= DIGITS_MAX).then_some(Number {
        negative,
        mantissa,
        digits,
        fraction_digits: u32::try_from(fraction).ok()?,
        end,
    })
}

/// Goes on with `value` over the digits at `at`. Wraps beyond 19 digits, which the caller refuses.
#[inline]
fn digits(m: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(chunk) = m.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let Some(eight) = eight_digits(u64::from_le_bytes(*chunk)) else { break };
        value = value.wrapping_mul(100_000_000).wrapping_add(eight);
        at += 8;
    }
    while let Some(digit @ b'0'..=b'9') = m.get(at) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (value, at)
}

/// Eight ASCII digits at once: pairs, then fours, then all (Lemire, "Quickly parsing eight digits", 2018).
#[inline]
fn eight_digits(chunk: u64) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    let is_digits = (chunk & HIGH) | ((chunk.wrapping_add(0x0606_0606_0606_0606) & HIGH) >> 4);
    if is_digits != 0x3333_3333_3333_3333 {
        return None;
    }
    let pairs = (chunk & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(2561) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(6_553_601) >> 16;
    Some((fours & 0x0000_ffff_0000_ffff).wrapping_mul(42_949_672_960_001) >> 32)
}

/// Where a string without escapes ends: its closing quote.
#[inline]
fn string_end(m: &[u8], mut at: usize) -> Option<usize> {
    while let Some(chunk) = m.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let special = special_bytes(chunk);
        if special != 0 {
            at += first_bit(special);
            return (*m.get(at)? == b'"').then_some(at);
        }
        at += 16;
    }
    loop {
        match *m.get(at)? {
            b'"' => return Some(at),
            b'\\' | 0..=0x1f => return None,
            _ => at += 1,
        }
    }
}

/// Copies a string while looking for its end, 16 bytes at a time; gives the byte after its closing quote.
#[inline]
fn copy_string(m: &[u8], mut at: usize, into: &mut Bytes) -> Option<usize> {
    let data = &mut into.data;
    while let Some(chunk) = m.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        data.extend_from_slice(chunk);
        let special = special_bytes(chunk);
        if special != 0 {
            let length = first_bit(special);
            data.truncate(data.len() - (16 - length));
            at += length;
            return (*m.get(at)? == b'"').then_some(at + 1);
        }
        at += 16;
    }
    let tail = m.get(at..)?;
    let length = tail.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))?;
    data.extend_from_slice(tail.get(..length)?);
    (*tail.get(length)? == b'"').then_some(at + length + 1)
}

/// One bit for each byte that ends a plain run: a quote, a backslash, a control character.
#[cfg(target_arch = "x86_64")]
#[inline]
fn special_bytes(chunk: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of x86-64; the load is unaligned and reads the 16 bytes of `chunk`.
    let mask = unsafe {
        let bytes = _mm_loadu_si128(chunk.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x22));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x5c));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
    };
    mask.cast_unsigned()
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn special_bytes(chunk: &[u8; 16]) -> u32 {
    special_bytes_portable(chunk)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn special_bytes_portable(chunk: &[u8; 16]) -> u32 {
    chunk.iter().enumerate().fold(0, |bits, (i, b)| bits | u32::from(matches!(b, b'"' | b'\\' | 0..=0x1f)) << i)
}

#[inline]
fn first_bit(mask: u32) -> usize {
    usize::try_from(mask.trailing_zeros()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_agree_with_the_portable_form() {
        for byte in 0..=255u8 {
            for at in 0..16 {
                let mut chunk = *b"abcdefghijklmnop";
                chunk[at] = byte;
                chunk[15 - at] = byte;
                assert_eq!(special_bytes(&chunk), special_bytes_portable(&chunk), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn eight_digits_are_digits_only() {
        assert_eq!(eight_digits(u64::from_le_bytes(*b"12345678")), Some(12_345_678));
        assert_eq!(eight_digits(u64::from_le_bytes(*b"00000000")), Some(0));
        assert_eq!(eight_digits(u64::from_le_bytes(*b"99999999")), Some(99_999_999));
        for byte in (0..=255u8).filter(|b| !b.is_ascii_digit()) {
            for at in 0..8 {
                let mut chunk = *b"12345678";
                chunk[at] = byte;
                assert_eq!(eight_digits(u64::from_le_bytes(chunk)), None, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn numbers_that_json_does_not_have_are_refused() {
        for text in ["-", "01", "-01", "1.", "1.x", ".5", "1234567890123456789"] {
            assert!(number(text.as_bytes(), 0).is_none(), "{text}");
        }
        let n = number(b"-1234567890.12345678,", 0).unwrap();
        assert_eq!(
            (n.negative, n.mantissa, n.digits, n.fraction_digits, n.end),
            (true, 123_456_789_012_345_678, 18, 8, 20)
        );
    }
}
