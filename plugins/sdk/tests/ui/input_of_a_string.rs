use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row {
    user_id: String,
}

fn main() {}
