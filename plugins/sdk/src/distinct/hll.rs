//! HyperLogLog with 2^12 registers: standard error 1.04 / √4096 = 1.6 %, 4 KiB a sketch.
//!
//! Estimator: O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017, algorithm 6; it needs no
//! bias table and no switch to linear counting.

const PRECISION: u8 = 12;
const P: u32 = PRECISION as u32;
const REGISTERS: usize = 1 << P;
/// Values of a register: 0 ..= Q + 1.
const Q: u32 = 64 - P;
/// Layout of exported bytes: format, P, then registers (dense) or (register u16, value u8) triples in order (sparse).
const DENSE: u8 = 1;
const SPARSE: u8 = 2;
/// From here on the dense form is the smaller one.
const SPARSE_REGISTERS_MAX: usize = REGISTERS / 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hll {
    registers: Box<[u8]>,
}

impl Default for Hll {
    fn default() -> Self {
        Self { registers: vec![0; REGISTERS].into_boxed_slice() }
    }
}

impl Hll {
    pub const BYTES: usize = REGISTERS;

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "both values are below 2^12")]
    pub fn insert(&mut self, hash: u64) {
        let index = (hash >> Q) as usize;
        // the guard bit bounds the count of zeros by Q
        let rank = (((hash << P) | (1 << (P - 1))).leading_zeros() + 1) as u8;
        self.raise(index, rank);
    }

    fn raise(&mut self, index: usize, rank: u8) {
        if let Some(register) = self.registers.get_mut(index) {
            *register = (*register).max(rank);
        }
    }

    /// Eight registers at a time: the guest has no vector instructions.
    pub fn merge(&mut self, other: &Self) {
        let (mine, _) = self.registers.as_chunks_mut::<8>();
        let (theirs, _) = other.registers.as_chunks::<8>();
        for (mine, theirs) in mine.iter_mut().zip(theirs) {
            *mine = larger(u64::from_le_bytes(*mine), u64::from_le_bytes(*theirs)).to_le_bytes();
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "an estimate, far below 2^53")]
    pub fn estimate(&self) -> i64 {
        let mut counts = [0u32; Q as usize + 2];
        for register in &self.registers {
            if let Some(count) = counts.get_mut(*register as usize) {
                *count += 1;
            }
        }
        let m = REGISTERS as f64;
        let at = |k: u32| f64::from(counts.get(k as usize).copied().unwrap_or_default());
        let mut z = m * tau(1.0 - at(Q + 1) / m);
        for k in (1..=Q).rev() {
            z = 0.5 * (z + at(k));
        }
        z += m * sigma(at(0) / m);
        (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as i64
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let filled = self.registers.iter().filter(|r| **r != 0).count();
        if filled > SPARSE_REGISTERS_MAX {
            return [&[DENSE, PRECISION], &*self.registers].concat();
        }
        let mut out = vec![SPARSE, PRECISION];
        for (index, rank) in (0u16..).zip(&self.registers).filter(|(_, r)| **r != 0) {
            out.extend(index.to_le_bytes());
            out.push(*rank);
        }
        out
    }

    /// None for bytes that [`Hll::to_bytes`] never wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<2>()?;
        let mut new = Self::default();
        match *header {
            [DENSE, p] if u32::from(p) == P && body.len() == REGISTERS => new.registers.copy_from_slice(body),
            [SPARSE, p] if u32::from(p) == P => {
                let (entries, []) = body.as_chunks::<3>() else { return None };
                for [low, high, rank] in entries {
                    new.raise(u16::from_le_bytes([*low, *high]).into(), *rank);
                }
            }
            _ => return None,
        }
        new.registers.iter().all(|r| u32::from(*r) <= Q + 1).then_some(new)
    }
}

/// The larger of each of eight bytes, all of which are below 128: so no borrow leaves its byte.
#[inline]
fn larger(a: u64, b: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let at_least = (((a | HIGH) - b) & HIGH) >> 7;
    let of_a = at_least * 0xff;
    (a & of_a) | (b & !of_a)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distinct::hash;

    #[test]
    fn the_larger_of_each_byte() {
        for a in 0_u8..128 {
            for b in 0_u8..128 {
                let bytes = |x: u8, y: u8| u64::from_le_bytes([x, y, x, 0, 127, y, x, x]);
                let max = |i: usize| bytes(a, b).to_le_bytes()[i].max(bytes(b, a).to_le_bytes()[i]);
                assert_eq!(larger(bytes(a, b), bytes(b, a)).to_le_bytes(), std::array::from_fn(max));
            }
        }
    }

    #[test]
    fn estimates_stay_within_four_standard_errors() {
        let mut sketch = Hll::default();
        assert_eq!(sketch.estimate(), 0);
        let mut next = 0u64;
        for size in [10u64, 100, 1_000, 10_000, 100_000, 1_000_000] {
            while next < size {
                sketch.insert(hash::words(&[next]));
                next += 1;
            }
            let error = (sketch.estimate() as f64 / size as f64 - 1.0).abs();
            assert!(error < 4.0 * 0.01625, "{size}: {error}");
            assert_eq!(Hll::from_bytes(&sketch.to_bytes()), Some(sketch.clone()));
        }
        assert_eq!(Hll::from_bytes(&[1, 12, 0]), None);
        assert_eq!(Hll::from_bytes(&[2, 12, 0, 0, 99]), None);
    }

    /// The standard error is what it is said to be: the root mean square over many independent sketches.
    #[test]
    fn the_standard_error_is_as_documented() {
        const SKETCHES: u64 = 300;
        // few values collide less: below about twice the registers the error is smaller
        for (size, least) in [(3_000u64, 0.5), (100_000, 0.87)] {
            let mut squares = 0.0;
            for sketch in 0..SKETCHES {
                let mut hll = Hll::default();
                (0..size).for_each(|n| hll.insert(hash::words(&[sketch, n])));
                squares += (hll.estimate() as f64 / size as f64 - 1.0).powi(2);
            }
            let error = (squares / SKETCHES as f64).sqrt();
            // 300 samples know their deviation to within 4.1 %: three of that
            assert!((least..1.13).contains(&(error / 0.01625)), "{size}: {error}");
        }
    }
}
