use millrace_plugin::prelude::*;

#[derive(Output)]
struct Report<T> {
    clicks: T,
}

fn main() {}
