use millrace_plugin::prelude::*;

#[derive(State)]
struct Counts {
    users: DistinctCount<str>,
    #[state(default = 100)]
    budget: i64,
}

fn main() {}
