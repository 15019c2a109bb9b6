//! Counts that take over no other version's state.

use millrace_plugin::prelude::*;

#[derive(Input)]
pub struct Event {
    amount: Option<i64>,
}

#[derive(State, Default)]
pub struct Counts {
    n: i64,
    squares: f64,
}

#[derive(Output)]
pub struct Report {
    n: i64,
    squares: f64,
}

#[aggregation(name = "counts", version = "4.0.0")]
impl Aggregation for Counts {
    type Input<'a> = Event;
    type Output = Report;

    #[allow(clippy::cast_precision_loss, reason = "amounts far below 2^53")]
    fn update(&mut self, event: Event) {
        self.n += 1;
        self.squares += (event.amount.unwrap_or_default() as f64).powi(2);
    }

    fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.squares += other.squares;
    }

    fn evaluate(&self, _: &Window) -> Report {
        Report { n: self.n, squares: self.squares }
    }
}
