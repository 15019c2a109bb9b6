use millrace_plugin::prelude::*;

#[derive(State, Default)]
struct Clicks {
    prices: DistinctCount<f64>,
}

fn main() {}
