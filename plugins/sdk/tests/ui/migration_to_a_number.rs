use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row {
    n: i64,
}

#[derive(State)]
struct V1 {
    n: i32,
}

#[derive(State, Default)]
struct Counts {
    n: i64,
}

#[derive(Output)]
struct Report {
    n: i64,
}

#[aggregation(name = "counts", version = "2.0.0")]
impl Aggregation for Counts {
    type Input<'a> = Row;
    type Output = Report;
    fn update(&mut self, row: Row) {
        self.n += row.n;
    }
    fn merge(&mut self, other: &Self) {
        self.n += other.n;
    }
    fn evaluate(&self, _: &Window) -> Report {
        Report { n: self.n }
    }
    #[migrate(from = "1.x")]
    fn from_v1(old: V1) -> i64 {
        old.n.into()
    }
}

fn main() {}
