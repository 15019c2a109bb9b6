//! Drops events of bots, refuses those without a platform, and writes the platform in one way.

use millrace_plugin::prelude::*;

/// The columns that it reads.
#[derive(Input)]
pub struct Event<'a> {
    user_id: &'a str,
    platform: Option<&'a str>,
}

/// The columns that it adds or replaces; all others stay as they are.
#[derive(Output, Debug, PartialEq)]
pub struct Row {
    platform: String,
}

#[derive(Default)]
pub struct {{Pascal}};

#[transform(name = "{{name}}", version = "0.1.0")]
impl Transform for {{Pascal}} {
    type Input<'a> = Event<'a>;
    type Output = Row;

    fn process(&self, event: Event<'_>) -> Result<Option<Row>, Reject> {
        if event.user_id.starts_with("bot-") {
            return Ok(None); // dropped
        }
        let platform = event.platform.ok_or_else(|| Reject::new("no platform"))?; // to the dead letters
        Ok(Some(Row { platform: platform.to_lowercase() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bots_are_dropped() {
        let row = {{Pascal}}.process(Event { user_id: "bot-7", platform: Some("iOS") });
        assert_eq!(row, Ok(None));
        let row = {{Pascal}}.process(Event { user_id: "ann", platform: Some("iOS") });
        assert_eq!(row, Ok(Some(Row { platform: "ios".into() })));
    }
}
