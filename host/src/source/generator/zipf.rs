//! Zipf-distributed ranks in constant time (Walker's alias method, tables as made by Vose, 1991).
//!
//! The exponent is 1, the classic law: rank k has a weight of 1/k. That needs no power function, so the tables, and
//! with them the events, are bit for bit the same on every machine.

/// 8 bytes per rank: a million ranks are 8 MB.
#[derive(Debug)]
pub(super) struct Zipf {
    /// per rank: the chance, of 2^32, to keep it, and the rank that it gives way to
    table: Vec<(u32, u32)>,
}

impl Zipf {
    /// `None` without ranks.
    pub(super) fn new(ranks: u32) -> Option<Self> {
        if ranks == 0 {
            return None;
        }
        let sum: f64 = (1..=ranks).map(|k| 1.0 / f64::from(k)).sum();
        // weight of a rank, in units of the average
        let mut weights: Vec<f64> = (1..=ranks).map(|k| f64::from(ranks) / (f64::from(k) * sum)).collect();
        let mut table: Vec<(u32, u32)> = (0..ranks).map(|rank| (u32::MAX, rank)).collect();
        // weights fall with the rank: those above the average are the first ones
        let is_small = |weights: &[f64], rank: usize| weights.get(rank).is_some_and(|w| *w < 1.0);
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|r| is_small(&weights, *r));
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            let weight = weights.get(poor).copied().unwrap_or(1.0);
            if let (Some(slot), Ok(rich)) = (table.get_mut(poor), u32::try_from(rich)) {
                *slot = (chance(weight), rich);
            }
            if let Some(left) = weights.get_mut(rich) {
                *left -= 1.0 - weight;
                if *left < 1.0 {
                    large.pop();
                    small.push(rich);
                }
            }
        }
        Some(Self { table })
    }

    /// The rank (from 0) that 64 random bits stand for.
    pub(super) fn rank(&self, random: u64) -> u32 {
        let [column, coin] = [random >> 32, random & 0xffff_ffff];
        let ranks = u64::try_from(self.table.len()).unwrap_or(0);
        let column = usize::try_from((column * ranks) >> 32).unwrap_or(0);
        match self.table.get(column) {
            Some((keep, _)) if coin <= u64::from(*keep) => u32::try_from(column).unwrap_or(0),
            Some((_, other)) => *other,
            None => 0,
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float in [0, 1) as 32 bits; `as` saturates"
)]
fn chance(weight: f64) -> u32 {
    (weight * 4_294_967_296.0) as u32
}
