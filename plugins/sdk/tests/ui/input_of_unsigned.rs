use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row {
    count: Option<u64>,
}

fn main() {}
