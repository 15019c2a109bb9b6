//! A transform that does all that one can: maps, drops, multiplies and refuses rows.

use millrace_plugin::prelude::*;

#[derive(Config)]
pub struct Options {
    #[config(default = ",")]
    separator: String,
}

#[derive(Input)]
pub struct Row<'a> {
    kind: Option<&'a str>,
    #[input(name = "n")]
    number: i64,
    #[input(optional)]
    bonus: Option<i64>,
}

#[derive(Output)]
pub struct Cleaned {
    kind: String,
    total: i64,
}

pub struct Clean {
    separator: String,
}

/// `kind` may name several kinds: a row for each. A row without a kind is dropped; a negative number is refused.
#[transform(name = "clean", version = "0.1.0")]
impl Transform for Clean {
    type Config = Options;
    type Input<'a> = Row<'a>;
    type Output = Cleaned;

    fn new(options: &Options) -> Self {
        Self { separator: options.separator.clone() }
    }

    #[allow(clippy::panic, reason = "a test looks for what is said and where")]
    fn process(&self, row: Row<'_>) -> Result<Vec<Cleaned>, Reject> {
        if row.number < 0 {
            return Err(Reject::new(format!("{} is negative", row.number)));
        }
        let Some(kind) = row.kind else { return Ok(Vec::new()) };
        if kind == "panic" {
            panic!("no kind is called panic");
        }
        let total = row.number + row.bonus.unwrap_or(0);
        Ok(kind.split(&self.separator).map(|kind| Cleaned { kind: kind.trim().to_lowercase(), total }).collect())
    }
}
