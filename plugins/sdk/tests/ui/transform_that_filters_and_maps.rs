use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a> {
    kind: &'a str,
}

#[derive(Output)]
struct Report {
    clicks: i64,
}

struct Keep;

#[transform(name = "keep", version = "1.0.0")]
impl Transform for Keep {
    type Input<'a> = Row<'a>;
    type Output = Report;
    fn new(_: &()) -> Self {
        Self
    }
    fn process(&self, row: Row<'_>) -> bool {
        row.kind == "click"
    }
}

fn main() {}
