use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a> {
    #[input(rename = "user")]
    user_id: &'a str,
}

fn main() {}
