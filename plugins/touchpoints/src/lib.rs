//! A transform: each ad event becomes the touches that attribution counts, none, one or several.
//!
//! | event | touches |
//! |---|---|
//! | impression | `reach`; none on a platform that is left out |
//! | click | `reach` and `interest` |
//! | conversion | `purchase`, weighing its revenue |
//!
//! Any other type of event is refused, and so is a conversion without revenue.

use millrace_plugin::prelude::*;

#[derive(Config)]
pub struct Options {
    /// whose impressions nobody looks at
    #[config(default = "")]
    without_platform: String,
}

#[derive(Input)]
pub struct Event<'a> {
    event_type: &'a str,
    platform: Option<&'a str>,
    revenue: Option<f64>,
}

#[derive(Output, Debug, PartialEq)]
pub struct Touch {
    touch: String,
    weight: f64,
}

pub struct Touchpoints {
    without_platform: String,
}

#[transform(name = "touchpoints", version = "1.0.0")]
impl Transform for Touchpoints {
    type Config = Options;
    type Input<'a> = Event<'a>;
    type Output = Touch;

    fn new(options: &Options) -> Self {
        Self { without_platform: options.without_platform.clone() }
    }

    fn process(&self, event: Event<'_>) -> Result<Vec<Touch>, Reject> {
        let touch = |touch: &str, weight| Touch { touch: touch.to_owned(), weight };
        match event.event_type {
            "impression" if event.platform.is_some_and(|platform| platform == self.without_platform) => Ok(vec![]),
            "impression" => Ok(vec![touch("reach", 1.0)]),
            "click" => Ok(vec![touch("reach", 1.0), touch("interest", 5.0)]),
            "conversion" => match event.revenue {
                Some(revenue) => Ok(vec![touch("purchase", revenue)]),
                None => Err(Reject::new("a conversion without revenue")),
            },
            other => Err(Reject::new(format!("no event is of type `{other}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touches(event_type: &str, platform: Option<&str>, revenue: Option<f64>) -> Result<Vec<(String, f64)>, Reject> {
        let options = Options { without_platform: "ctv".to_owned() };
        let touches = Touchpoints::new(&options).process(Event { event_type, platform, revenue })?;
        Ok(touches.into_iter().map(|touch| (touch.touch, touch.weight)).collect())
    }

    #[test]
    fn an_event_is_none_one_or_several_touches() {
        assert_eq!(touches("impression", Some("ctv"), None).unwrap(), []);
        assert_eq!(touches("impression", None, None).unwrap(), [("reach".to_owned(), 1.0)]);
        assert_eq!(touches("click", Some("ctv"), None).unwrap().len(), 2);
        assert_eq!(touches("conversion", None, Some(9.5)).unwrap(), [("purchase".to_owned(), 9.5)]);
        assert!(touches("conversion", None, None).is_err());
        assert!(touches("view", None, None).is_err());
    }
}
