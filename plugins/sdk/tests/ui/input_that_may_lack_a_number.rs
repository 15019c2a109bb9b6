use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row {
    #[input(optional)]
    revenue: f64,
}

fn main() {}
