use millrace_plugin::prelude::*;

#[derive(Input)]
pub struct Visit<'a> {
    user: &'a str,
    seconds: f64,
}

#[derive(State, Default)]
#[state(drops("bounces"))]         // 2.x kept them; nobody asks for them any more
pub struct Visits {
    visits: i64,                   // was an int: made wider
    users: DistinctCount<str>,
    #[state(default)]              // new in 3.0; older state begins as `new` does
    longest: f64,
}

#[derive(State)]
pub struct Visits1 {               // exactly what 1.x kept
    count: i64,
    users: DistinctCount<str>,
}

#[derive(Output)]
pub struct Report {
    visits: i64,
    users: i64,
    longest: f64,
}

#[aggregation(name = "visits", version = "3.0.0")]
impl Aggregation for Visits {
    type Input<'a> = Visit<'a>;
    type Output = Report;

    #[migrate(from = "1.x")]       // `visits` was called `count`
    fn from_v1(old: Visits1, _origin: &Origin) -> Option<Self> {
        Some(Self { visits: old.count, users: old.users, longest: 0.0 })
    }

    fn update(&mut self, visit: Visit<'_>) {
        self.visits += 1;
        self.users.insert(visit.user);
        self.longest = self.longest.max(visit.seconds);
    }

    fn merge(&mut self, other: &Self) {
        self.visits += other.visits;
        self.users.merge(&other.users);
        self.longest = self.longest.max(other.longest);
    }

    fn evaluate(&self, _: &Window) -> Report {
        Report { visits: self.visits, users: self.users.count(), longest: self.longest }
    }
}
