use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a>(&'a str);

fn main() {}
