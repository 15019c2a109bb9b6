//! Clicks with the impression that they came from, if they followed it.

use millrace_plugin::prelude::*;

/// The columns that it reads of the left input.
#[derive(Input)]
pub struct Impression<'a> {
    creative: &'a str,
    timestamp: Timestamptz,
}

/// And of the right one.
#[derive(Input)]
pub struct Click {
    timestamp: Timestamptz,
}

#[derive(Output, Debug, PartialEq)]
pub struct Row {
    creative: String,
    delay_ms: i64,
}

#[derive(Default)]
pub struct {{Pascal}};

#[join(name = "{{name}}", version = "0.1.0")]
impl Join for {{Pascal}} {
    type Left<'a> = Impression<'a>;
    type Right<'a> = Click;
    type Output = Row;

    /// The host has matched the keys; a pair without a row is no match.
    fn pair(&self, impression: Impression<'_>, click: Click) -> Option<Row> {
        let delay_ms = (click.timestamp.0 - impression.timestamp.0) / 1_000;
        (delay_ms >= 0).then(|| Row { creative: impression.creative.to_owned(), delay_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_click_comes_after_its_impression() {
        let impression = |at| Impression { creative: "spring", timestamp: Timestamptz(at) };
        let click = || Click { timestamp: Timestamptz(5_000_000) };
        assert_eq!({{Pascal}}.pair(impression(6_000_000), click()), None);
        let row = Row { creative: "spring".into(), delay_ms: 2_000 };
        assert_eq!({{Pascal}}.pair(impression(3_000_000), click()), Some(row));
    }
}
