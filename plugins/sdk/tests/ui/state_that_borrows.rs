use millrace_plugin::prelude::*;

#[derive(State)]
struct Clicks<'a> {
    last_user: &'a str,
}

fn main() {}
