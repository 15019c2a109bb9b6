//! Counts, first version: what `counts_v2`, `counts_v3` and `counts_v4` take over, or do not.

use millrace_plugin::prelude::*;

#[derive(Config)]
pub struct Options {
    #[config(default = "exact")]
    users: Distinct,
}

#[derive(Input)]
pub struct Event<'a> {
    user: &'a str,
    amount: Option<i64>,
    note: Option<&'a str>,
}

#[derive(State)]
pub struct Counts {
    n: i64,
    sum: i32,
    /// the last one in the order of letters
    note: Option<String>,
    users: DistinctCount<str>,
}

#[derive(Output)]
pub struct Report {
    n: i64,
    sum: i64,
    note: Option<String>,
    users: i64,
}

#[aggregation(name = "counts", version = "1.0.0")]
impl Aggregation for Counts {
    type Config = Options;
    type Input<'a> = Event<'a>;
    type Output = Report;

    fn new(options: &Options) -> Self {
        Self { n: 0, sum: 0, note: None, users: DistinctCount::new(options.users) }
    }

    fn update(&mut self, event: Event<'_>) -> Result<(), Reject> {
        let amount = i32::try_from(event.amount.unwrap_or_default())?;
        self.n += 1;
        self.sum = self.sum.saturating_add(amount);
        self.note = self.note.take().max(event.note.map(Into::into));
        self.users.insert(event.user);
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.sum = self.sum.saturating_add(other.sum);
        self.note = self.note.take().max(other.note.clone());
        self.users.merge(&other.users);
    }

    fn evaluate(&self, _: &Window) -> Report {
        Report { n: self.n, sum: self.sum.into(), note: self.note.clone(), users: self.users.count() }
    }
}
