//! Counts, second version: a wider sum, one more field, and any configuration.

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
#[state(any_config)]
pub struct Counts {
    users: DistinctCount<str>,
    n: i64,
    sum: i64,
    note: Option<String>,
    /// of the events since this version
    #[state(default)]
    smallest: i64,
}

#[derive(Output)]
pub struct Report {
    n: i64,
    sum: i64,
    note: Option<String>,
    users: i64,
    smallest: i64,
}

#[aggregation(name = "counts", version = "2.1.0")]
impl Aggregation for Counts {
    type Config = Options;
    type Input<'a> = Event<'a>;
    type Output = Report;

    fn new(options: &Options) -> Self {
        Self { n: 0, sum: 0, note: None, users: DistinctCount::new(options.users), smallest: i64::MAX }
    }

    fn update(&mut self, event: Event<'_>) {
        let amount = event.amount.unwrap_or_default();
        self.n += 1;
        self.sum += amount;
        self.note = self.note.take().max(event.note.map(Into::into));
        self.users.insert(event.user);
        self.smallest = self.smallest.min(amount);
    }

    fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.sum += other.sum;
        self.note = self.note.take().max(other.note.clone());
        self.users.merge(&other.users);
        self.smallest = self.smallest.min(other.smallest);
    }

    fn evaluate(&self, _: &Window) -> Report {
        let Self { n, sum, smallest, .. } = *self;
        Report { n, sum, note: self.note.clone(), users: self.users.count(), smallest }
    }
}
