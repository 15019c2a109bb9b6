//! Ad events before they are counted: bots go, a message of several events becomes a row for each, platforms get one
//! name. What cannot be true is refused, not corrected.

use millrace_plugin::prelude::*;

#[derive(Config)]
pub struct Options {
    /// parts of user agents that people do not have; default: bot, crawler, spider, headless
    bots: Option<Vec<String>>,
}

#[derive(Input, Clone, Copy)]
pub struct Event<'a> {
    /// one, or several as in `impression|click`
    event_type: &'a str,
    platform: Option<&'a str>,
    revenue: Option<f64>,
    #[input(optional)]
    user_agent: Option<&'a str>,
}

#[derive(Output, Debug, PartialEq)]
pub struct Clean {
    event_type: String,
    platform: String,
    revenue: Option<f64>,
}

pub struct Cleaner {
    bots: Vec<String>,
}

#[transform(name = "event-cleaner", version = "1.0.0")]
impl Transform for Cleaner {
    type Config = Options;
    type Input<'a> = Event<'a>;
    type Output = Clean;

    fn new(options: &Options) -> Self {
        let usual = || ["bot", "crawler", "spider", "headless"].map(String::from).to_vec();
        let bots = options.bots.clone().unwrap_or_else(usual);
        Self { bots: bots.iter().map(|bot| bot.to_lowercase()).collect() }
    }

    fn process(&self, event: Event<'_>) -> Result<Vec<Clean>, Reject> {
        if event.user_agent.is_some_and(|agent| self.is_bot(agent)) {
            count("bots", 1);
            return Ok(Vec::new());
        }
        if let Some(revenue) = event.revenue.filter(|r| !(0.0..f64::INFINITY).contains(r)) {
            return Err(Reject::new(format!("a revenue of {revenue}")));
        }
        let types = event.event_type.split('|').map(str::trim).filter(|t| !t.is_empty());
        let rows: Vec<Clean> = types
            .map(|event_type| Clean {
                event_type: event_type.to_lowercase(),
                platform: platform(event.platform).into(),
                // of several events only the conversion has earned it: it must not be counted twice
                revenue: event.revenue.filter(|_| event_type.eq_ignore_ascii_case("conversion")),
            })
            .collect();
        if rows.is_empty() { Err(Reject::new("no event_type")) } else { Ok(rows) }
    }
}

impl Cleaner {
    fn is_bot(&self, agent: &str) -> bool {
        let agent = agent.to_lowercase();
        self.bots.iter().any(|bot| agent.contains(bot))
    }
}

/// How names of platforms begin, the first one that fits; everything else is `other`.
const PLATFORMS: [(&str, &str); 13] = [
    ("ios", "ios"),
    ("iphone", "ios"),
    ("ipad", "ios"),
    ("ctv", "ctv"),
    ("tv", "ctv"),
    ("roku", "ctv"),
    ("android tv", "ctv"),
    ("apple tv", "ctv"),
    ("android", "android"),
    ("web", "web"),
    ("mobile web", "web"),
    ("desktop", "web"),
    ("browser", "web"),
];

fn platform(given: Option<&str>) -> &'static str {
    let given = given.unwrap_or_default().trim().to_lowercase();
    PLATFORMS.iter().find(|(beginning, _)| given.starts_with(beginning)).map_or("other", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: Event<'_> = Event { event_type: "click", platform: Some("web"), revenue: None, user_agent: None };

    fn clean(event: Event<'_>) -> Result<Vec<Clean>, Reject> {
        Cleaner::new(&Options { bots: None }).process(event)
    }

    fn row(event_type: &str, platform: &str, revenue: Option<f64>) -> Clean {
        Clean { event_type: event_type.into(), platform: platform.into(), revenue }
    }

    #[test]
    fn bots_go_and_people_stay() {
        let by = |user_agent| clean(Event { user_agent, ..EVENT }).unwrap().len();
        assert_eq!(by(Some("Mozilla/5.0 (compatible; Googlebot/2.1)")), 0);
        assert_eq!(by(Some("HeadlessChrome/120")), 0);
        assert_eq!(by(Some("Mozilla/5.0 (iPhone)")), 1);
        assert_eq!(by(None), 1);
        let mut own = Cleaner::new(&Options { bots: Some(vec!["iPhone".into()]) });
        assert_eq!(own.process(Event { user_agent: Some("Mozilla/5.0 (iphone)"), ..EVENT }), Ok(vec![]));
    }

    #[test]
    fn several_events_become_rows_and_revenue_stays_with_the_conversion() {
        let rows = clean(Event { event_type: "Impression| click|conversion|", revenue: Some(2.5), ..EVENT });
        let expected = [row("impression", "web", None), row("click", "web", None), row("conversion", "web", Some(2.5))];
        assert_eq!(rows.unwrap(), expected);
    }

    #[test]
    fn platforms_have_one_name() {
        for (given, name) in [
            (Some("iOS"), "ios"),
            (Some(" iPadOS 17"), "ios"),
            (Some("Android 14"), "android"),
            (Some("Android TV"), "ctv"),
            (Some("desktop"), "web"),
            (Some("fridge"), "other"),
            (None, "other"),
        ] {
            assert_eq!(clean(Event { platform: given, ..EVENT }).unwrap(), [row("click", name, None)]);
        }
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let refused = |event| clean(event).unwrap_err().0;
        assert_eq!(refused(Event { revenue: Some(-1.0), ..EVENT }), "a revenue of -1");
        assert_eq!(refused(Event { revenue: Some(f64::NAN), ..EVENT }), "a revenue of NaN");
        assert_eq!(refused(Event { event_type: " | ", ..EVENT }), "no event_type");
    }
}
