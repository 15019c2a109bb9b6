use millrace_plugin::prelude::*;

#[derive(State)]
enum Clicks {
    None,
    Some(i64),
}

fn main() {}
