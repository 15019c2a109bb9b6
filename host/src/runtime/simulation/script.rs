//! What a seed says: the messages of every partition, what becomes of each, and the life of every process.

use std::collections::BTreeSet;

use serde_json::json;

use super::fragile::POISON;
use super::random::Random;

/// Where a process can be struck. Every touch of the world outside is a hit of one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Fetch,
    StoreRead,
    LogPut,
    StatePut,
    Delete,
    TableClaim,
    Write,
    Prepare,
    Join,
    Commit,
}

impl Place {
    pub const ALL: [Self; 10] = [
        Self::Fetch,
        Self::StoreRead,
        Self::LogPut,
        Self::StatePut,
        Self::Delete,
        Self::TableClaim,
        Self::Write,
        Self::Prepare,
        Self::Join,
        Self::Commit,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// SIGKILL: this step is not applied, and nothing after it is
    DieBefore,
    /// SIGKILL: this step is applied, nobody hears of it, nothing after it is
    DieAfter,
    /// SIGTERM
    Stop,
    /// The process stands still until another has taken the pipeline over, then goes on as if nothing had been.
    Hang,
}

/// Happens at the `hit`-th hit of `place`.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub place: Place,
    pub hit: u64,
    pub twist: Twist,
}

/// One process, from its start to its end.
#[derive(Clone, Debug)]
pub struct Life {
    pub number: usize,
    pub parallelism: usize,
    pub sink_tasks: usize,
    pub commit_every: u32,
    pub interval_ms: u64,
    pub retain: usize,
    pub until_end: bool,
    pub keep_open: bool,
    /// of each partition's messages, how many can arrive while this process lives
    pub horizon_percent: usize,
    pub chunk_max: usize,
    /// of 100 steps that can fail and be tried again, how many do
    pub faults_percent: usize,
    pub store_tries: u32,
    /// of 100 steps of the sinks and the store, how many are slow
    pub slow_percent: usize,
    /// of 100 calls of a plugin instance, how many are its last
    pub plugin_falls_percent: usize,
    pub plugin_leaks: bool,
    pub memory_limit_bytes: u64,
    /// of 100 steps, how many replace a plugin
    pub swaps_percent: usize,
    pub probation_ms: u64,
    pub turn: Option<Turn>,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub id: i64,
    pub key: String,
    pub user: i64,
    pub time_ms: i64,
    /// what the plugin makes of it: good, refused, or deadly
    pub kind: &'static str,
}

#[derive(Clone, Debug)]
pub enum Meaning {
    Undecodable,
    /// beyond `max_future`
    Future,
    Event(Event),
}

#[derive(Clone, Debug)]
pub struct Message {
    pub offset: i64,
    pub payload: Option<Vec<u8>>,
    pub meaning: Meaning,
}

#[derive(Clone, Debug)]
pub struct Partition {
    pub messages: Vec<Message>,
    pub begin: i64,
    /// the offset after the last record, be it a message or a hole
    pub end: i64,
    /// the first process that can find it
    pub appears_in_life: usize,
    /// not there when that process starts
    pub appears_while_running: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tumbling,
    Sliding { slide_ms: i64 },
    Session,
}

/// Everything about a world that does not change.
#[derive(Clone, Debug)]
pub struct Script {
    pub seed: u64,
    /// all disorder is within the bound and all partitions are there from the start: nothing may be late
    pub punctual: bool,
    pub partitions: Vec<Partition>,
    pub now_ms: i64,
    pub kind: Kind,
    /// or the gap of sessions
    pub window_ms: i64,
    pub window_offset_ms: i64,
    pub lateness_ms: u64,
    /// early results
    pub early: bool,
    pub out_of_orderness_ms: u64,
    pub max_drift_ms: Option<u64>,
    pub idle_timeout_ms: Option<u64>,
    pub late_connected: bool,
}

pub const MAX_FUTURE_MS: u64 = 60_000;
/// The machine's clock may be wrong by as much, either way.
pub const CLOCK_JUMPS_MS: i64 = 50_000;
pub const GOOD: &str = "good";
const REFUSED: &str = "refused";
const BEGINNING_MS: i64 = 1_700_000_000_000;

impl Script {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        let punctual = random.percent(50);
        let disorder_ms = random.pick(&[0, 50, 400, 3_000]);
        let keys = random.within(1..=12);
        let count = 1 + random.below(6);
        let per_partition = random.pick(&[10, 60, 200]);
        let mut next_id = 0;
        let mut newest_ms = BEGINNING_MS;
        let mut partitions: Vec<Partition> = (0..count)
            .map(|_| {
                let begin = random.pick(&[0, 0, 17]);
                let (mut offset, mut clock_ms) = (begin, BEGINNING_MS + random.within(0..=500));
                let step_ms = random.pick(&[3, 20, 90]);
                let length = random.below(per_partition + 1);
                let messages = (0..length)
                    .map(|_| {
                        offset += if random.percent(8) { random.within(1..=5) } else { 0 };
                        clock_ms += random.within(0..=step_ms);
                        let back_ms = if !punctual && random.percent(6) { 20_000 } else { disorder_ms };
                        let event = Event {
                            id: next_id,
                            key: format!("k{}", random.within(1..=keys)),
                            user: random.within(1..=5),
                            time_ms: clock_ms - random.within(0..=back_ms),
                            kind: if random.percent(96) { GOOD } else { random.pick(&[REFUSED, REFUSED, POISON]) },
                        };
                        next_id += 1;
                        newest_ms = newest_ms.max(event.time_ms);
                        offset += 1;
                        message(offset - 1, event, &mut random)
                    })
                    .collect();
                Partition {
                    messages,
                    begin,
                    end: offset + random.pick(&[0, 0, 1]),
                    appears_in_life: if !punctual && random.percent(40) { random.below(6) } else { 0 },
                    appears_while_running: false,
                }
            })
            .collect();
        if let Some(first) = partitions.first_mut() {
            first.appears_in_life = 0;
        }
        let bound_ms = disorder_ms.unsigned_abs();
        let window_ms = random.pick(&[100, 700, 5_000]);
        let mut windows = Random::new(seed, 7);
        let slide_ms = window_ms / windows.within(2..=6) + windows.within(0..=7);
        Self {
            seed,
            punctual,
            partitions,
            now_ms: newest_ms,
            kind: windows.pick(&[Kind::Tumbling, Kind::Sliding { slide_ms }, Kind::Session]),
            early: windows.percent(40),
            window_ms,
            // smaller than what windows repeat by
            window_offset_ms: random.within(0..=99) % slide_ms,
            lateness_ms: random.pick(&[0, 0, 150]),
            out_of_orderness_ms: bound_ms,
            max_drift_ms: random.percent(15).then(|| bound_ms + 2_000),
            idle_timeout_ms: (!punctual && random.percent(40)).then_some(3),
            late_connected: random.percent(70),
        }
        .with_futures(&mut random)
    }

    /// Messages dated beyond `max_future`, in the place of others.
    fn with_futures(mut self, random: &mut Random) -> Self {
        for message in self.partitions.iter_mut().flat_map(|p| &mut p.messages) {
            if let Meaning::Event(event) = &mut message.meaning
                && random.percent(2)
            {
                let ahead_ms = i64::try_from(MAX_FUTURE_MS).unwrap() + CLOCK_JUMPS_MS + random.within(1..=1_000_000);
                event.time_ms = self.now_ms + ahead_ms;
                message.payload = Some(encode(event));
                message.meaning = Meaning::Future;
            }
        }
        self
    }

    /// The life of process `number`; after `settled_after` of them nothing goes wrong any more.
    pub fn life(&self, number: usize) -> Life {
        let mut random = Random::new(self.seed, 100 + number as u64);
        let before_the_end = self.seed.is_multiple_of(5) as usize * 2 + Random::new(self.seed, 2).below(4);
        let until_end = number >= before_the_end;
        let settled = number >= before_the_end + 6;
        // a bounded process with more to come would let partitions that are done fall behind the watermark
        let in_between = !until_end && !self.punctual && random.percent(20);
        let stop = random.percent(20);
        let mut swaps = Random::new(self.seed, 5_000 + number as u64);
        let swaps_percent = swaps.pick(&[0, 5, 30, 60]);
        let struck = !settled && (!until_end || random.percent(60));
        Life {
            number,
            parallelism: 1 + random.below(4),
            sink_tasks: 1 + random.below(3),
            commit_every: random.pick(&[1, 1, 2, 5]),
            interval_ms: random.pick(&[1, 3, 10]),
            retain: 1 + random.below(3),
            until_end: until_end || in_between,
            keep_open: in_between || until_end && !settled && random.percent(20),
            horizon_percent: if until_end { 100 } else { 100 * (number + 1) / (before_the_end + 1) },
            chunk_max: random.pick(&[2, 10, 60]),
            faults_percent: if settled { 0 } else { random.pick(&[0, 0, 3, 15]) },
            store_tries: random.pick(&[1, 40, 40, 40]),
            slow_percent: random.pick(&[0, 0, 10, 60]),
            plugin_falls_percent: if settled { 0 } else { random.pick(&[0, 0, 1, 4]) },
            plugin_leaks: random.percent(20),
            // all groups stay in memory; inputs are kept for the next instance, or hardly any, and groups go to disk
            memory_limit_bytes: random.pick(&[1 << 50, 1 << 50, 40_000, 0]),
            // with a disk there are none
            swaps_percent,
            probation_ms: swaps.pick(&[0, 3, 20, 10_000]),
            turn: struck.then(|| {
                use Place::{Commit, Delete, Fetch, Join, LogPut, Prepare, StatePut, StoreRead, TableClaim, Write};
                let twist = match (stop, random.percent(50)) {
                    (true, _) => Twist::Stop,
                    (false, true) => Twist::DieBefore,
                    (false, false) => Twist::DieAfter,
                };
                let place = random.pick(&Place::ALL);
                let hits_max = match place {
                    TableClaim => 4,
                    LogPut | Delete | Join | Commit => 8,
                    Fetch | StoreRead | StatePut | Write | Prepare => 25,
                };
                Turn { place, hit: 1 + random.next() % hits_max, twist }
            }),
        }
    }

    /// Every message that says an event which an operator may get to see, with its partition and offset.
    pub fn events(&self) -> impl Iterator<Item = (i32, i64, &Event)> {
        self.messages().filter_map(|(partition, message)| match &message.meaning {
            Meaning::Event(event) => Some((partition, message.offset, event)),
            Meaning::Undecodable | Meaning::Future => None,
        })
    }

    pub fn messages(&self) -> impl Iterator<Item = (i32, &Message)> {
        (0..).zip(&self.partitions).flat_map(|(number, p)| p.messages.iter().map(move |m| (number, m)))
    }

    /// The distinct keys, for the report of a failure.
    pub fn summary(&self) -> String {
        let keys: BTreeSet<&str> = self.events().map(|(_, _, e)| e.key.as_str()).collect();
        format!(
            "{} messages in {} partitions, {} keys, {:?} windows of {} ms, lateness {} ms, early results: {}, disorder {} ms, \
             punctual: {}",
            self.messages().count(),
            self.partitions.len(),
            keys.len(),
            self.kind,
            self.window_ms,
            self.lateness_ms,
            self.early,
            self.out_of_orderness_ms,
            self.punctual
        )
    }
}

/// Gives a partition of another script ids that are its own.
pub fn renumber(partition: &mut Partition, first_id: i64) {
    for (id, message) in (first_id..).zip(&mut partition.messages) {
        if let Meaning::Event(event) = &mut message.meaning {
            event.id = id;
            message.payload = Some(encode(event));
        }
    }
}

fn message(offset: i64, event: Event, random: &mut Random) -> Message {
    if random.percent(4) {
        let broken: [Option<&[u8]>; 4] =
            [None, Some(b"{\"key\":"), Some(b"\xff\xfe"), Some(b"{\"key\":\"k1\",\"at\":1}")];
        let payload = random.pick(&broken).map(<[u8]>::to_vec);
        return Message { offset, payload, meaning: Meaning::Undecodable };
    }
    Message { offset, payload: Some(encode(&event)), meaning: Meaning::Event(event) }
}

fn encode(event: &Event) -> Vec<u8> {
    let Event { id, key, user, time_ms, kind } = event;
    json!({"key": key, "id": id, "user": user, "kind": kind, "at": time_ms}).to_string().into_bytes()
}
