//! Impressions, clicks, conversions, revenue, unique users and rates per campaign.

use millrace_plugin::prelude::*;

#[derive(Config)]
pub struct Options {
    #[config(default = "exact")]
    unique_users: Distinct,
}

#[derive(Input)]
pub struct Event<'a> {
    event_type: &'a str,
    user_id: &'a str,
    revenue: Option<f64>,
}

#[derive(State)]
pub struct Campaign {
    impressions: i64,
    clicks: i64,
    conversions: i64,
    revenue: f64,
    users: DistinctCount<str>,
}

#[derive(Output, Debug, PartialEq)]
pub struct Metrics {
    impressions: i64,
    clicks: i64,
    conversions: i64,
    revenue: f64,
    unique_users: i64,
    ctr: Option<f64>,
    cvr: Option<f64>,
}

#[aggregation(name = "campaign-metrics", version = "1.0.0")]
impl Aggregation for Campaign {
    type Config = Options;
    type Input<'a> = Event<'a>;
    type Output = Metrics;

    fn new(options: &Options) -> Self {
        let users = DistinctCount::new(options.unique_users);
        Self { impressions: 0, clicks: 0, conversions: 0, revenue: 0.0, users }
    }

    fn update(&mut self, event: Event<'_>) -> Result<(), Reject> {
        match event.event_type {
            "impression" => self.impressions += 1,
            "click" => self.clicks += 1,
            "conversion" => self.conversions += 1,
            other => return Err(Reject::new(format!("unknown event_type {other:?}"))),
        }
        self.revenue += event.revenue.unwrap_or(0.0);
        self.users.insert(event.user_id);
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.impressions += other.impressions;
        self.clicks += other.clicks;
        self.conversions += other.conversions;
        self.revenue += other.revenue;
        self.users.merge(&other.users);
    }

    fn evaluate(&self, _window: &Window) -> Metrics {
        Metrics {
            impressions: self.impressions,
            clicks: self.clicks,
            conversions: self.conversions,
            revenue: self.revenue,
            unique_users: self.users.count(),
            ctr: rate(self.clicks, self.impressions),
            cvr: rate(self.conversions, self.clicks),
        }
    }
}

/// Null where nothing could be divided by.
#[allow(clippy::cast_precision_loss, reason = "a rate of counts far below 2^53")]
fn rate(part: i64, whole: i64) -> Option<f64> {
    (whole != 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { start: Timestamptz(0), end: Timestamptz(300_000_000), is_final: true };

    fn campaign(events: &[(&str, &str, Option<f64>)]) -> Campaign {
        let mut campaign = Campaign::new(&Options { unique_users: Distinct::Exact });
        for (event_type, user_id, revenue) in events {
            campaign.update(Event { event_type, user_id, revenue: *revenue }).unwrap();
        }
        campaign
    }

    #[test]
    fn rates_are_null_where_the_divisor_is_zero() {
        let metrics = campaign(&[]).evaluate(&WINDOW);
        assert_eq!((metrics.ctr, metrics.cvr), (None, None));
        let metrics = campaign(&[("impression", "a", None)]).evaluate(&WINDOW);
        assert_eq!((metrics.ctr, metrics.cvr), (Some(0.0), None));
        let metrics = campaign(&[("conversion", "a", Some(1.5))]).evaluate(&WINDOW);
        assert_eq!((metrics.ctr, metrics.cvr, metrics.revenue), (None, None, 1.5));
    }

    #[test]
    fn merging_counts_users_once() {
        let mut one = campaign(&[("impression", "a", None), ("click", "a", None)]);
        let two = campaign(&[("impression", "b", None), ("impression", "a", None), ("conversion", "b", Some(2.0))]);
        one.merge(&two);
        let metrics = one.evaluate(&WINDOW);
        assert_eq!((metrics.impressions, metrics.clicks, metrics.conversions), (3, 1, 1));
        assert_eq!((metrics.unique_users, metrics.revenue), (2, 2.0));
        assert_eq!((metrics.ctr, metrics.cvr), (Some(1.0 / 3.0), Some(1.0)));
    }

    #[test]
    fn an_unknown_event_type_is_rejected_and_leaves_no_trace() {
        let mut campaign = campaign(&[]);
        let reject = campaign.update(Event { event_type: "view", user_id: "a", revenue: Some(9.0) }).unwrap_err();
        assert_eq!(reject.0, "unknown event_type \"view\"");
        let metrics = campaign.evaluate(&WINDOW);
        assert_eq!((metrics.revenue, metrics.unique_users), (0.0, 0));
    }
}
