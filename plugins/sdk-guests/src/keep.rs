//! A filter: no column goes out.

use millrace_plugin::prelude::*;

#[derive(Input)]
pub struct Row {
    n: Option<i64>,
}

#[derive(Default)]
pub struct Keep;

#[transform(name = "keep", version = "0.1.0")]
impl Transform for Keep {
    type Input<'a> = Row;

    fn process(&self, row: Row) -> bool {
        row.n.is_some_and(|n| n % 2 == 0)
    }
}
