use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a> {
    kind: &'a str,
}

#[derive(State, Default)]
struct Clicks {
    clicks: i64,
}

#[derive(Output)]
struct Report {
    clicks: i64,
}

#[aggregation(name = "clicks")]
impl Aggregation for Clicks {
    type Input<'a> = Row<'a>;
    type Output = Report;
    fn update(&mut self, _: Row<'_>) {
        self.clicks += 1;
    }
    fn merge(&mut self, other: &Self) {
        self.clicks += other.clicks;
    }
    fn evaluate(&self, _: &Window) -> Report {
        Report { clicks: self.clicks }
    }
}

fn main() {}
