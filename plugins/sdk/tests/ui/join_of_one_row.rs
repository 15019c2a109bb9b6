use millrace_plugin::prelude::*;

#[derive(Input)]
struct Row<'a> {
    kind: &'a str,
}

#[derive(Output)]
struct Report {
    clicks: i64,
}

#[derive(Default)]
struct Both;

#[join(name = "both", version = "1.0.0")]
impl Join for Both {
    type Left<'a> = Row<'a>;
    type Right<'a> = Row<'a>;
    type Output = Report;
    fn pair(&self, _: Row<'_>) -> Report {
        Report { clicks: 1 }
    }
}

fn main() {}
