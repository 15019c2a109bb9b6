use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a> {
    kind: &'a str,
}

#[derive(Default)]
struct Keep;

#[transform(name = "keep", version = "1.0.0")]
impl Transform for Keep {
    type Input<'a> = Row<'a>;
    fn process(self, row: Row<'_>) -> bool {
        row.kind == "click"
    }
}

fn main() {}
