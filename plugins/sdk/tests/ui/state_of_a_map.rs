use millrace_plugin::prelude::*;

#[derive(State, Default)]
struct Clicks {
    by_user: std::collections::HashMap<String, i64>,
}

fn main() {}
