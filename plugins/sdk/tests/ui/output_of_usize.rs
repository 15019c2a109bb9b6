use millrace_plugin::prelude::*;

#[derive(Output)]
struct Report {
    clicks: usize,
}

fn main() {}
