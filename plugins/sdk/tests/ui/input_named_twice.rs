use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row {
    #[input(name = "clicks")]
    views: i64,
    clicks: i64,
}

fn main() {}
