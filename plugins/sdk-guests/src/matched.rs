//! A join with rows for pairs and for what is unmatched on the left.

use millrace_plugin::prelude::*;

#[derive(Input)]
pub struct Impression<'a> {
    creative: &'a str,
    at: Timestamptz,
}

#[derive(Input)]
pub struct Click {
    at: Timestamptz,
}

#[derive(Output)]
pub struct Matched {
    creative: String,
    delay_us: Option<i64>,
}

#[derive(Default)]
pub struct ClickThrough;

#[join(name = "matched", version = "0.1.0")]
impl Join for ClickThrough {
    type Left<'a> = Impression<'a>;
    type Right<'a> = Click;
    type Output = Matched;

    fn pair(&self, impression: Impression<'_>, click: Click) -> Option<Matched> {
        let delay_us = click.at.0 - impression.at.0;
        (delay_us >= 0).then(|| Matched { creative: impression.creative.into(), delay_us: Some(delay_us) })
    }

    fn unmatched(&self, row: OneSide<Impression<'_>, Click>) -> Option<Matched> {
        match row {
            OneSide::Left(impression) => Some(Matched { creative: impression.creative.into(), delay_us: None }),
            OneSide::Right(_) => None,
        }
    }
}
