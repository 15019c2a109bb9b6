//! ns per row of `update`, natively: campaigns (1,000) × 1M users, both zipf-distributed, batches of 8,192 rows.
//! `cargo run --release -p campaign-metrics --example speed [exact|hll] [CAMPAIGNS] [BATCHES]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a measurement, not production code"
)]

use std::time::Instant;

use campaign_metrics::Campaign;
use millrace_plugin::aggregation::{Accumulator, Plugin};
use millrace_plugin::column::{Bytes, ColumnRef, DataRef};

const ROWS: usize = 8192;
const USERS: usize = 1_000_000;

struct Zipf(Vec<f64>);
impl Zipf {
    fn new(n: usize) -> Self {
        let mut sum = 0.0;
        let mut cdf: Vec<f64> = (1..=n)
            .map(|k| {
                sum += 1.0 / k as f64;
                sum
            })
            .collect();
        cdf.iter_mut().for_each(|c| *c /= sum);
        Self(cdf)
    }
    fn pick(&self, seed: &mut u64) -> usize {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (*seed >> 11) as f64 / (1u64 << 53) as f64;
        self.0.partition_point(|c| *c < x).min(self.0.len() - 1)
    }
}

struct Batch {
    kinds: Bytes,
    keys: Vec<u32>,
    users: Bytes,
    revenue: Vec<f64>,
    validity: Vec<u8>,
    groups: Vec<u32>,
}

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_else(|| "exact".into());
    let number = |at, default| std::env::args().nth(at).map_or(default, |arg| arg.parse().unwrap());
    let (campaign_count, batch_count) = (number(2, 1_000), number(3, 366));
    let (users, campaigns, mut seed) = (Zipf::new(USERS), Zipf::new(campaign_count), 1u64);
    let names = ["impression", "click", "conversion"];
    let batches: Vec<Batch> = (0..batch_count)
        .map(|_| {
            let mut b = Batch {
                kinds: Bytes::default(),
                keys: vec![],
                users: Bytes::default(),
                revenue: vec![],
                validity: vec![0; ROWS / 8],
                groups: vec![],
            };
            for row in 0..ROWS {
                let group = campaigns.pick(&mut seed);
                let user = users.pick(&mut seed);
                let kind = match (seed >> 40) % 100 {
                    0..90 => 0,
                    90..99 => 1,
                    _ => 2,
                };
                b.kinds.push(names[kind].as_bytes());
                b.keys.push(kind as u32);
                // ids are not in order of popularity
                b.users.push(format!("user-{:010}", user * 7_654_321 % USERS).as_bytes());
                b.revenue.push(if kind == 2 { 1.25 } else { 0.0 });
                b.validity[row >> 3] |= u8::from(kind == 2) << (row & 7);
                b.groups.push(group as u32);
            }
            b
        })
        .collect();
    let mut words = Bytes::default();
    names.iter().for_each(|n| words.push(n.as_bytes()));
    for dictionary in [false, true, false, true] {
        let mut acc =
            <Campaign as Plugin>::Accumulator::open(&format!("{{\"unique_users\": \"{mode}\"}}"), &offered()).unwrap();
        let start = Instant::now();
        let mut half = start;
        for (i, b) in batches.iter().enumerate() {
            if i == batch_count / 2 {
                half = Instant::now();
            }
            let kinds = match dictionary {
                true => DataRef::Dictionary { keys: &b.keys, values: words.as_ref() },
                false => DataRef::Utf8(b.kinds.as_ref()),
            };
            let columns = [
                ColumnRef { data: kinds, validity: None },
                ColumnRef { data: DataRef::Utf8(b.users.as_ref()), validity: None },
                ColumnRef { data: DataRef::Float64(&b.revenue), validity: Some(&b.validity) },
            ];
            acc.update(&columns, &b.groups, campaign_count as u32).unwrap();
        }
        let end = start.elapsed();
        let rows = (batch_count * ROWS) as f64;
        let groups: Vec<u32> = (0..campaign_count as u32).collect();
        let size = acc.size();
        let (mut cursor, mut exported, export_start) = (Some(0), 0usize, Instant::now());
        while let Some(at) = cursor {
            let chunk = acc.state(&groups, at, 2 << 20).unwrap();
            cursor = chunk.next;
            exported += chunk.groups.len();
        }
        let export = export_start.elapsed();
        let reset_start = Instant::now();
        acc.reset(&groups).unwrap();
        println!(
            "{mode} dictionary={dictionary}: {:.1} ns/row over all, {:.1} in the second half; {} MiB held; export of {exported} rows {:.0} ms; reset {:.1} ms",
            end.as_nanos() as f64 / rows,
            half.elapsed().saturating_sub(start.elapsed().saturating_sub(end)).as_nanos() as f64 / (rows / 2.0),
            size >> 20,
            export.as_secs_f64() * 1e3,
            reset_start.elapsed().as_secs_f64() * 1e3,
        );
    }
}

fn offered() -> Vec<millrace_plugin::column::Field> {
    use millrace_plugin::column::{DataType, Field};
    vec![
        Field::new("event_type", DataType::Utf8, false),
        Field::new("user_id", DataType::Utf8, false),
        Field::new("revenue", DataType::Float64, true),
    ]
}
