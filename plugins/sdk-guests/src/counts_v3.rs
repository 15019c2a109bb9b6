//! Counts, third version: `n` is called `events`, the sum is a double in units of a hundred, and a note is always there.

use millrace_plugin::prelude::*;

#[derive(Input)]
pub struct Event<'a> {
    user: &'a str,
    amount: Option<i64>,
}

#[derive(State, Default)]
pub struct Counts {
    events: i64,
    total: f64,
    note: String,
    users: DistinctCount<str>,
}

/// What 1.x kept.
#[derive(State)]
pub struct V1 {
    n: i64,
    sum: i32,
    note: Option<String>,
    users: DistinctCount<str>,
}

/// What 2.x kept.
#[derive(State)]
pub struct V2 {
    n: i64,
    sum: i64,
    note: Option<String>,
    users: DistinctCount<str>,
    smallest: i64,
}

#[derive(Output)]
pub struct Report {
    events: i64,
    total: f64,
    note: String,
    users: i64,
}

#[aggregation(name = "counts", version = "3.0.0")]
impl Aggregation for Counts {
    type Input<'a> = Event<'a>;
    type Output = Report;

    fn update(&mut self, event: Event<'_>) {
        self.events += 1;
        self.total += hundreds(event.amount.unwrap_or_default());
        self.users.insert(event.user);
    }

    fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.total += other.total;
        if other.note > self.note {
            self.note.clone_from(&other.note);
        }
        self.users.merge(&other.users);
    }

    fn evaluate(&self, _: &Window) -> Report {
        let Self { events, total, .. } = *self;
        Report { events, total, note: self.note.clone(), users: self.users.count() }
    }

    #[migrate(from = "1.x")]
    fn from_v1(old: V1, origin: &Origin) -> Result<Self, Reject> {
        if origin.config.contains("hll") {
            return Err(Reject::new("users were estimated, and are counted since 3.0"));
        }
        let note = old.note.unwrap_or_default();
        Ok(Self { events: old.n, total: hundreds(old.sum.into()), note, users: old.users })
    }

    #[migrate(from = "2.1")]
    fn from_v2(old: V2) -> Option<Self> {
        let note = old.note.unwrap_or_default();
        // a smallest one below zero was a mistake of 2.1
        (old.smallest >= 0).then(|| Self { events: old.n, total: hundreds(old.sum), note, users: old.users })
    }
}

#[allow(clippy::cast_precision_loss, reason = "sums far below 2^53")]
fn hundreds(amount: i64) -> f64 {
    amount as f64 / 100.0
}
