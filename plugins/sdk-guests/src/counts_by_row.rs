//! Counts by event type and a sum, in the row style: the benchmark compares it with `counts_by_column`.

use millrace_plugin::prelude::*;

#[derive(Input)]
pub struct Event<'a> {
    event_type: &'a str,
    revenue: Option<f64>,
}

#[derive(State, Default)]
pub struct Counts {
    impressions: i64,
    clicks: i64,
    conversions: i64,
    revenue: f64,
}

#[derive(Output)]
pub struct Report {
    impressions: i64,
    clicks: i64,
    conversions: i64,
    revenue: f64,
}

#[aggregation(name = "counts", version = "0.1.0")]
impl Aggregation for Counts {
    type Input<'a> = Event<'a>;
    type Output = Report;

    fn update(&mut self, event: Event<'_>) {
        match event.event_type {
            "impression" => self.impressions += 1,
            "click" => self.clicks += 1,
            "conversion" => self.conversions += 1,
            _ => {}
        }
        self.revenue += event.revenue.unwrap_or(0.0);
    }

    fn merge(&mut self, other: &Self) {
        self.impressions += other.impressions;
        self.clicks += other.clicks;
        self.conversions += other.conversions;
        self.revenue += other.revenue;
    }

    fn evaluate(&self, _: &Window) -> Report {
        let Self { impressions, clicks, conversions, revenue } = *self;
        Report { impressions, clicks, conversions, revenue }
    }
}
