use millrace_plugin::prelude::*;

#[derive(Config)]
struct Options {
    timeout: std::time::Duration,
}

fn main() {}
