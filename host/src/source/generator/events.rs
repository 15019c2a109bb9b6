//! The ad events: what an advertising platform's exchange would log, seeded.
//!
//! | column | values |
//! |---|---|
//! | `event_id` | like a UUID, unique for each (seed, partition, offset) |
//! | `user_id` | `user-0000000000`…, Zipf (exponent 1) over `users` |
//! | `campaign_id` | `campaign-000000`…, Zipf (exponent 1) over `campaigns` |
//! | `event_type` | impression 90 %, click 9 %, conversion 1 % |
//! | `timestamp` | epoch ms: the event's arrival minus 0…`disorder_ms`, evenly |
//! | `platform` | ios, android, web, ctv, evenly |
//! | `revenue` | 0.01…100.00, on conversions only |
//!
//! With `duplicates`, so many of the events repeat one of the [`REPEATED_AFTER_MAX`] before them, byte for byte, in
//! whatever partition: what a producer does that was not answered in time.
//!
//! Events are numbered over all partitions: number i is offset i / P of partition i mod P, and arrives at
//! start + i / rate (without a rate: a thousand a second, so that a fast reader passes through many windows).

use super::zipf::Zipf;
use crate::spec::model::GeneratorSpec;

/// How densely events follow each other in event time when no rate is asked for.
const NOMINAL_EVENTS_PER_S: u64 = 1_000;

/// How many events lie between one and its repetition at the most.
pub const REPEATED_AFTER_MAX: u64 = 256;

const PLATFORMS: [&[u8]; 4] = [b"ios", b"android", b"web", b"ctv"];
const HEX: &[u8; 16] = b"0123456789abcdef";

/// 2^64 / golden ratio: the step of SplitMix64 (Steele, Lea, Flood, 2014).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// All events of a spec. Making it takes a moment (the users' table); every event after that is made in constant time.
#[derive(Debug)]
pub struct AdEvents {
    seed: u64,
    partitions: u32,
    rate: Option<u64>,
    count: Option<u64>,
    disorder_ms: u64,
    repeats_per_million: u64,
    /// event time of event 0
    start_ms: i64,
    /// when event 0 becomes readable
    available_ms: i64,
    campaigns: Zipf,
    users: Zipf,
}

impl AdEvents {
    pub fn new(spec: &GeneratorSpec, incarnation_start_ms: i64) -> Result<Self, String> {
        if spec.partitions == 0 || spec.rate == Some(0) || i32::try_from(spec.partitions).is_err() {
            return Err("the generator needs at least one partition, and a rate above 0".to_owned());
        }
        let (Some(campaigns), Some(users)) = (Zipf::new(spec.campaigns), Zipf::new(spec.users)) else {
            return Err("the generator needs at least one campaign and one user".to_owned());
        };
        Ok(Self {
            seed: mix(spec.seed.wrapping_add(STEP)),
            partitions: spec.partitions,
            rate: spec.rate,
            count: spec.count,
            disorder_ms: spec.disorder_ms,
            repeats_per_million: u64::from(spec.repeats_per_million),
            start_ms: spec.start_ms.unwrap_or(incarnation_start_ms),
            available_ms: incarnation_start_ms,
            campaigns,
            users,
        })
    }

    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// How many events a partition has in all; none: no end.
    pub fn count(&self, partition: u32) -> Option<i64> {
        self.count.map(|count| self.share(count, partition))
    }

    /// Of the first `events` of all, how many are the partition's.
    fn share(&self, events: u64, partition: u32) -> i64 {
        let rest = events.saturating_sub(u64::from(partition));
        i64::try_from(rest.div_ceil(u64::from(self.partitions))).unwrap_or(i64::MAX)
    }

    /// The offset after the last event that is readable at `now_ms`.
    pub(super) fn end_at(&self, partition: u32, now_ms: i64) -> i64 {
        let end = self.count(partition).unwrap_or(super::NO_END);
        match self.rate {
            None => end,
            Some(rate) => end.min(self.share(self.arrived(now_ms.saturating_sub(self.available_ms), rate), partition)),
        }
    }

    /// The first offset that arrives (in event time) at or after `timestamp_ms`.
    pub(super) fn offset_at(&self, partition: u32, timestamp_ms: i64) -> i64 {
        let before = timestamp_ms.saturating_sub(self.start_ms).saturating_sub(1);
        self.share(self.arrived(before, self.rate.unwrap_or(NOMINAL_EVENTS_PER_S)), partition)
    }

    /// How many events have come after so many milliseconds: those with i × 1000 / rate ≤ elapsed.
    fn arrived(&self, elapsed_ms: i64, rate: u64) -> u64 {
        match u128::try_from(elapsed_ms) {
            Ok(elapsed) => u64::try_from((elapsed * u128::from(rate)) / 1_000 + 1).unwrap_or(u64::MAX),
            Err(_) => 0,
        }
    }

    /// The event's number over all partitions.
    fn number(&self, partition: u32, offset: i64) -> u64 {
        u64::try_from(offset).unwrap_or(0).wrapping_mul(u64::from(self.partitions)).wrapping_add(u64::from(partition))
    }

    /// When the event comes in: its record timestamp.
    pub fn arrival_ms(&self, partition: u32, offset: i64) -> i64 {
        self.arrival_of(self.number(partition, offset))
    }

    fn arrival_of(&self, number: u64) -> i64 {
        let rate = u128::from(self.rate.unwrap_or(NOMINAL_EVENTS_PER_S));
        let after = (u128::from(number) * 1_000).div_ceil(rate);
        self.start_ms.saturating_add(i64::try_from(after).unwrap_or(i64::MAX))
    }

    /// A bijection of the number, so that no two events have the same id.
    fn id(&self, number: u64) -> u64 {
        mix(self.seed.wrapping_add(number.wrapping_mul(STEP)))
    }

    /// The event that this one is: itself, or the one that it repeats.
    fn original(&self, mut number: u64) -> u64 {
        while self.repeats_per_million > 0 && number > 0 {
            let [.., choice, distance] = lanes::<8>(self.id(number));
            if below(choice >> 32, 1_000_000) >= self.repeats_per_million {
                break;
            }
            number -= 1 + below(distance >> 32, number.min(REPEATED_AFTER_MAX));
        }
        number
    }

    /// Appends the event as JSON.
    pub fn json(&self, partition: u32, offset: i64, into: &mut Vec<u8>) {
        let number = self.original(self.number(partition, offset));
        let id = self.id(number);
        let [more_id, user, campaign, kind, delay, money] = lanes(id);

        into.extend_from_slice(b"{\"event_id\":\"");
        uuid(id, more_id, into);
        into.extend_from_slice(b"\",\"user_id\":\"user-");
        decimal(u64::from(self.users.rank(user)), 10, into);
        into.extend_from_slice(b"\",\"campaign_id\":\"campaign-");
        decimal(u64::from(self.campaigns.rank(campaign)), 6, into);
        let kind_of_100 = below(kind >> 32, 100);
        into.extend_from_slice(match kind_of_100 {
            0..90 => b"\",\"event_type\":\"impression\",\"timestamp\":".as_slice(),
            90..99 => b"\",\"event_type\":\"click\",\"timestamp\":",
            _ => b"\",\"event_type\":\"conversion\",\"timestamp\":",
        });
        let delay = i64::try_from(below(delay >> 32, self.disorder_ms.saturating_add(1))).unwrap_or(0);
        let time = self.arrival_of(number).saturating_sub(delay);
        if time < 0 {
            into.push(b'-');
        }
        decimal(time.unsigned_abs(), 1, into);
        into.extend_from_slice(b",\"platform\":\"");
        let platform = usize::try_from(kind & 3).unwrap_or(0);
        into.extend_from_slice(PLATFORMS.get(platform).copied().unwrap_or(b"web"));
        into.push(b'"');
        if kind_of_100 == 99 {
            let cents = below(money >> 32, 10_000) + 1;
            into.extend_from_slice(b",\"revenue\":");
            decimal(cents / 100, 1, into);
            into.push(b'.');
            decimal(cents % 100, 2, into);
        }
        into.push(b'}');
    }
}

/// SplitMix64's finaliser: a bijection whose every bit depends on every bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Independent random words from one.
fn lanes<const N: usize>(base: u64) -> [u64; N] {
    let mut state = base;
    [(); N].map(|()| {
        state = state.wrapping_add(STEP);
        mix(state)
    })
}

/// 32 random bits → a number below `limit`. Uneven by at most `limit` / 2^32.
fn below(random: u64, limit: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(limit)) >> 32).unwrap_or(0)
}

/// 122 bits in the form of a version-4 UUID; the first word is there in full.
fn uuid(first: u64, second: u64, into: &mut Vec<u8>) {
    let mut text = *b"00000000-0000-4000-a000-000000000000";
    let (mut bits, mut left, mut next) = (first, 16, second);
    for (at, slot) in text.iter_mut().enumerate() {
        if matches!(at, 8 | 13 | 14 | 18 | 19 | 23) {
            continue;
        }
        if left == 0 {
            (bits, left, next) = (next, 16, 0);
        }
        *slot = HEX.get(usize::try_from(bits & 15).unwrap_or(0)).copied().unwrap_or(b'0');
        bits >>= 4;
        left -= 1;
    }
    into.extend_from_slice(&text);
}

/// A number with at least `width` digits.
fn decimal(mut value: u64, width: usize, into: &mut Vec<u8>) {
    let mut text = [b'0'; 20];
    let mut length = 0;
    for slot in text.iter_mut().rev() {
        *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        length += 1;
        if value == 0 && length >= width {
            break;
        }
    }
    into.extend_from_slice(text.get(text.len() - length..).unwrap_or(&[]));
}
