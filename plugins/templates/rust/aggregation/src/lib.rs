//! Events, revenue and unique users of each key.

use millrace_plugin::prelude::*;

/// The columns that it reads.
#[derive(Input)]
pub struct Event<'a> {
    user_id: &'a str,
    revenue: Option<f64>,
}

/// What it keeps of one key while a window is open.
#[derive(State, Default)]
pub struct {{Pascal}} {
    events: i64,
    revenue: f64,
    users: DistinctCount<str>,
}

/// The columns of a result, after the key's and the window's.
#[derive(Output, Debug, PartialEq)]
pub struct Row {
    events: i64,
    revenue: f64,
    unique_users: i64,
}

#[aggregation(name = "{{name}}", version = "0.1.0")]
impl Aggregation for {{Pascal}} {
    type Config = ();
    type Input<'a> = Event<'a>;
    type Output = Row;

    fn update(&mut self, event: Event<'_>) -> Result<(), Reject> {
        if event.revenue.is_some_and(|revenue| revenue < 0.0) {
            return Err(Reject::new("negative revenue"));
        }
        self.events += 1;
        self.revenue += event.revenue.unwrap_or(0.0);
        self.users.insert(event.user_id);
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.revenue += other.revenue;
        self.users.merge(&other.users);
    }

    fn evaluate(&self, _window: &Window) -> Row {
        Row { events: self.events, revenue: self.revenue, unique_users: self.users.count() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_counted_once() {
        let mut state = {{Pascal}}::default();
        for user_id in ["a", "b", "a"] {
            state.update(Event { user_id, revenue: Some(1.5) }).unwrap();
        }
        let window = Window { start: Timestamptz(0), end: Timestamptz(300_000_000), is_final: true };
        assert_eq!(state.evaluate(&window), Row { events: 3, revenue: 4.5, unique_users: 2 });
    }
}
