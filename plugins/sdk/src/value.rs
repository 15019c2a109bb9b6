//! The values that have no Rust type of their own: instants, dates, decimals.
//!
//! An `i64` never reads a timestamp by accident: the types differ at the boundary, so they differ here.

/// Microseconds since 1970-01-01T00:00:00, without a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamptz(pub i64);

/// Days since 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub i32);

/// A decimal of `P` digits, `S` of them after the point: the value is `unscaled / 10^S`. Money belongs here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal<const P: u8, const S: u8>(pub i128);

impl<const P: u8, const S: u8> std::ops::AddAssign for Decimal<P, S> {
    /// Panics on overflow of 128 bits, as integers do in a debug build: a wrong sum of money is worse than a trap.
    fn add_assign(&mut self, other: Self) {
        match self.0.checked_add(other.0) {
            Some(sum) => self.0 = sum,
            #[allow(clippy::panic, reason = "documented; a wrong sum of money is worse than a trap")]
            None => panic!("decimal({P},{S}) overflows"),
        }
    }
}

/// Splits a decimal into the boundary's words, low word first.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the two halves of a two's complement")]
pub(crate) fn decimal_words(value: i128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

/// The inverse of [`decimal_words`].
#[allow(clippy::cast_possible_wrap, reason = "the bits are a two's complement")]
pub(crate) fn decimal_value(low: u64, high: u64) -> i128 {
    ((u128::from(high) << 64) | u128::from(low)) as i128
}
