use millrace_plugin::prelude::*;

#[derive(State)]
struct Counts {
    n: i64,
    #[state(default = "none")]
    label: i64,
}

fn main() {}
