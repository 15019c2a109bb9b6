use millrace_plugin::prelude::*;

#[derive(State, Default)]
struct Counts {
    n: i64,
}

impl Counts {
    #[migrate(from = "1.x")]
    fn from_v1(_: Counts) -> Self {
        Self::default()
    }
}

fn main() {}
