//! Random changelogs, restarts at every instant and compactions against a plain map.

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const KEYS: [Option<&str>; 5] = [Some("a"), Some("b"), Some("c"), Some(""), None];

type Group = (Option<&'static str>, (i64, i64));

/// What the aggregation has given out: its groups with their rows, and the revision.
#[derive(Clone, Default)]
struct Model {
    groups: BTreeMap<Group, (Vec<i64>, u32)>,
    watermark_hours: i64,
    next: i64,
}

impl Model {
    fn rows(&self) -> Vec<Row> {
        let groups = self.groups.iter();
        groups.flat_map(|((key, window), (numbers, _))| numbers.iter().map(|n| row(*key, Some(*window), *n))).collect()
    }

    fn numbers(&mut self, random: &mut Random) -> Vec<i64> {
        let count = if random.one_in(4) { 1 + random.below(3) } else { 1 };
        (0..count)
            .map(|_| {
                self.next += 1;
                self.next
            })
            .collect()
    }

    /// Changes of some groups whose windows can still change, as one batch.
    fn change(&mut self, random: &mut Random, into: &mut Vec<Version>) {
        for _ in 0..1 + random.below(4) {
            let key = KEYS[usize::try_from(random.below(5)).unwrap()];
            let start = self.watermark_hours + i64::try_from(random.below(3)).unwrap();
            let known = self.groups.keys().find(|(k, w)| *k == key && w.0 == start).copied();
            let version =
                |kind, revision, window, numbers| Version { kind, revision, key, window: Some(window), numbers };
            match known {
                None => {
                    let window = (start, start + 1 + i64::try_from(random.below(2)).unwrap());
                    let numbers = self.numbers(random);
                    self.groups.insert((key, window), (numbers.clone(), 1));
                    into.push(version(Kind::Insert, 1, window, numbers));
                }
                Some(group) if random.one_in(3) => {
                    let (_, revision) = self.groups.remove(&group).unwrap();
                    into.push(version(Kind::Delete, revision + 1, group.1, Vec::new()));
                    // a session that grows
                    if random.one_in(2) {
                        let window = (start, group.1.1 + 1);
                        let numbers = self.numbers(random);
                        self.groups.insert((key, window), (numbers.clone(), 1));
                        into.push(version(Kind::Insert, 1, window, numbers));
                    }
                }
                Some(group) => {
                    let numbers = self.numbers(random);
                    let entry = self.groups.get_mut(&group).unwrap();
                    *entry = (numbers.clone(), entry.1 + 1);
                    into.push(version(Kind::Replace, entry.1, group.1, numbers));
                }
            }
        }
    }
}

fn run(seed: u64, partition_by: &[PartitionField], every: u32, buffer_bytes: usize) {
    let world = World::new();
    let mut random = Random(seed);
    let mut process = world.start(partition_by, every);
    process.buffer_bytes = buffer_bytes;
    process.restart();
    let mut model = Model::default();
    // as of the last published checkpoint, and as of the last one that is committed
    let mut published = model.clone();
    let mut committed = Vec::new();
    for step in 0..30 {
        for _ in 0..random.below(4) {
            let mut batch = Vec::new();
            model.change(&mut random, &mut batch);
            process.write(&batch);
        }
        if random.one_in(5) {
            model.watermark_hours += 1;
            process.writer.watermark(model.watermark_hours * HOUR_MS - 1);
        }
        if random.one_in(6) {
            world.compact(&process.sink);
        }
        match random.below(8) {
            // killed in the middle of an epoch, or with its checkpoint unpublished
            0 => {
                if random.one_in(2) {
                    process.prepared();
                }
                // numbers of the life that is over are not used again
                model = Model { next: model.next, ..published.clone() };
                process.restart();
            }
            what => {
                process.publish();
                published = model.clone();
                let due = !process.state.pending.is_empty();
                if due || process.state.open.files.is_empty() {
                    committed = model.rows();
                }
                match what {
                    // killed before the commit
                    1 => process.restart(),
                    // killed after it, without knowing
                    2 => {
                        let before = process.state.clone();
                        process.commit_pending();
                        process.state = before;
                        process.restart();
                    }
                    _ => process.commit_pending(),
                }
            }
        }
        let mut expected = committed.clone();
        expected.sort();
        assert_eq!(world.rows_by_scan(), expected, "seed {seed}, step {step}");
    }
}

#[test]
fn any_changelog_with_restarts_and_compactions_leaves_the_last_versions() {
    for seed in 0..2 {
        run(seed, &[], 1, BUFFER_BYTES);
        run(100 + seed, &[by("campaign", PartitionTransform::Identity)], 1, BUFFER_BYTES);
        run(200 + seed, &[by("window_start", PartitionTransform::Day)], 3, BUFFER_BYTES);
        run(300 + seed, &[by("campaign", PartitionTransform::Bucket(2))], 2, 1);
    }
}
