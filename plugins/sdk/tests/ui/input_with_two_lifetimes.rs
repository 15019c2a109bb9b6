use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a, 'b> {
    kind: &'a str,
    user_id: &'b str,
}

fn main() {}
