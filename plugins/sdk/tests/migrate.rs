//! State of one version in another one: what comes over equals what the new version would have made of the same rows, also
//! when groups travel in several rows; and every refusal says what is in the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests"
)]

use std::collections::BTreeSet;

use millrace_plugin::aggregation::{Accumulator, Plugin};
use millrace_plugin::column::{Column, ColumnData, ColumnRef, DataRef, Error, Field};
use millrace_plugin::migrate::{Own, plan};
use millrace_plugin::prelude::*;
use proptest::prelude::*;

#[derive(Config)]
pub struct Options {
    #[config(default = "exact")]
    users: Distinct,
    #[config(default = 1)]
    times: i64,
}

#[derive(Input)]
pub struct Row<'a> {
    user: &'a str,
    n: i64,
}

#[derive(Output)]
pub struct Report {
    n: i64,
    low: i64,
    users: i64,
}

/// The parts of a version that no test is about.
macro_rules! version {
    ($state:ident, $version:tt, |$options:ident| $new:expr, |$self:ident, $row:ident| $update:expr,
     |$mine:ident, $other:ident| $merge:expr, |$given:ident| $report:expr, { $($migrations:tt)* }) => {
        #[aggregation(name = "counts", version = $version)]
        impl Aggregation for $state {
            type Config = Options;
            type Input<'a> = Row<'a>;
            type Output = Report;
            fn new($options: &Options) -> Self {
                $new
            }
            fn update(&mut self, $row: Row<'_>) {
                let $self = self;
                $update;
            }
            fn merge(&mut self, $other: &Self) {
                let $mine = self;
                $merge;
            }
            fn evaluate(&self, _: &Window) -> Report {
                let $given = self;
                $report
            }
            $($migrations)*
        }
    };
}

mod v1 {
    use super::*;

    #[derive(State)]
    pub struct Counts {
        pub sum: f32,
        pub n: i32,
        pub users: DistinctCount<str>,
        pub noise: i64,
    }

    version!(
        Counts,
        "1.0.0",
        |options| Self { sum: 0.0, n: 0, users: DistinctCount::new(options.users), noise: 0 },
        |me, row| {
            me.n += row.n as i32;
            me.users.insert(row.user);
            me.noise += 1
        },
        |me, other| {
            me.n += other.n;
            me.users.merge(&other.users);
            me.noise += other.noise
        },
        |me| Report { n: me.n.into(), low: 0, users: me.users.count() },
        {}
    );
}

mod v2 {
    use super::*;

    /// Wider types, a column less, one more that begins where merging begins.
    #[derive(State)]
    #[state(drops("noise"), any_config)]
    pub struct Counts {
        pub n: i64,
        pub users: DistinctCount<str>,
        pub sum: Option<f64>,
        #[state(default)]
        pub low: i64,
        #[state(default)]
        pub pages: TopK<str>,
    }

    version!(
        Counts,
        "2.0.0",
        |options| Self {
            n: 0,
            users: DistinctCount::new(options.users),
            sum: Some(0.0),
            low: i64::MAX,
            pages: TopK::new(9),
        },
        |me, row| {
            me.n += row.n;
            me.users.insert(row.user);
            me.low = me.low.min(row.n)
        },
        |me, other| {
            me.n += other.n;
            me.users.merge(&other.users);
            me.low = me.low.min(other.low)
        },
        |me| Report { n: me.n, low: me.low, users: me.users.count() },
        {}
    );
}

mod v3 {
    use super::*;

    #[derive(State)]
    pub struct V1 {
        n: i32,
        sum: f32,
        users: DistinctCount<str>,
        noise: i64,
    }

    #[derive(State)]
    pub struct Counts {
        pub cents: i64,
        pub users: DistinctCount<str>,
    }

    version!(
        Counts,
        "3.0.0",
        |options| Self { cents: 0, users: DistinctCount::new(options.users) },
        |me, row| {
            me.cents += row.n * 100;
            me.users.insert(row.user)
        },
        |me, other| {
            me.cents += other.cents;
            me.users.merge(&other.users)
        },
        |me| Report { n: me.cents, low: 0, users: me.users.count() },
        {
            /// in cents since 3.0
            #[migrate(from = "1.x")]
            fn from_v1(old: V1, origin: &Origin, options: &Options) -> Option<Self> {
                assert_eq!((old.sum, old.noise >= 0), (0.0, true));
                (origin.config != "{\"times\":2}" && options.times == 1)
                    .then(|| Self { cents: i64::from(old.n) * 100, users: old.users })
            }
            #[migrate(from = "2")]
            fn from_v2(old: v2::Counts) -> Result<Self, Reject> {
                if old.low < 0 {
                    Err(Reject::new("it has seen less than nothing"))
                } else {
                    Ok(Self { cents: old.n * 100, users: old.users })
                }
            }
        }
    );
}

fn open<P: Plugin>(config: &str) -> P::Accumulator {
    let offered: Vec<Field> =
        <Row<'_> as millrace_plugin::input::InputRow<'_>>::wanted().into_iter().map(|w| w.field).collect();
    P::Accumulator::open(config, &offered).unwrap()
}

fn update(accumulator: &mut impl Accumulator, rows: &[(u32, String, i64)]) {
    let mut users = Column::empty(millrace_plugin::column::DataType::Utf8);
    let mut numbers = Vec::new();
    for (_, user, n) in rows {
        if let ColumnData::Utf8(bytes) = &mut users.data {
            bytes.push(user.as_bytes());
        }
        numbers.push(*n);
    }
    let groups: Vec<u32> = rows.iter().map(|(group, ..)| *group).collect();
    let n = ColumnRef { data: DataRef::Int64(&numbers), validity: None };
    assert_eq!(accumulator.update(&[users.as_ref(), n], &groups, GROUPS).unwrap(), []);
}

const GROUPS: u32 = 4;
const ALL: [u32; GROUPS as usize] = [0, 1, 2, 3];

fn origin<P: Plugin>(config: &str) -> Origin {
    let info = P::Accumulator::info();
    let state = open::<P>(config).signature().state;
    Origin { name: info.name, version: info.version, config: config.into(), state }
}

/// From the one into the other, as a swap does it. Rows per chunk that were migrated.
fn swap<From: Plugin, To: Plugin>(
    old: &mut From::Accumulator,
    new: &mut To::Accumulator,
    config: &str,
    bytes_max: u64,
) -> Result<Option<Vec<usize>>, Error> {
    let origin = origin::<From>(config);
    let (mut cursor, mut counts) = (Some(0), Vec::new());
    while let Some(at) = cursor {
        let chunk = old.state(&ALL, at, bytes_max)?;
        let columns: Vec<ColumnRef<'_>> = chunk.columns.iter().map(Column::as_ref).collect();
        let Some(migrated) = new.migrate(&origin, &columns)? else { return Ok(None) };
        assert_eq!(migrated.len(), new.signature().state.len());
        assert!(migrated.iter().all(|c| c.rows == chunk.groups.len()));
        let migrated: Vec<ColumnRef<'_>> = migrated.iter().map(Column::as_ref).collect();
        new.merge(&migrated, &chunk.groups, GROUPS)?;
        counts.push(chunk.groups.len());
        cursor = chunk.next;
    }
    Ok(Some(counts))
}

fn reports(accumulator: &mut impl Accumulator) -> Vec<(i64, i64, i64)> {
    let window = Window { start: Timestamptz(0), end: Timestamptz(1), is_final: false };
    let columns = accumulator.evaluate(&ALL, &[window; GROUPS as usize]).unwrap().columns;
    let [ColumnData::Int64(n), ColumnData::Int64(low), ColumnData::Int64(users)] =
        [0, 1, 2].map(|i| columns[i].data.clone())
    else {
        panic!("{columns:?}")
    };
    (0..ALL.len()).map(|i| (n[i], low[i], users[i])).collect()
}

fn rows() -> impl Strategy<Value = Vec<(u32, String, i64)>> {
    proptest::collection::vec((0..GROUPS - 1, "[a-f]{1,3}", 0..100i64), 0..80)
}

proptest! {
    /// The last group has seen nothing, and has still seen nothing afterwards.
    #[test]
    fn what_comes_over_is_what_it_was(before in rows(), after in rows(), bytes_max in 1..400u64) {
        let (mut old, mut new) = (open::<v1::Counts>(""), open::<v2::Counts>(""));
        update(&mut old, &before);
        let chunks = swap::<v1::Counts, v2::Counts>(&mut old, &mut new, "{}", bytes_max).unwrap().unwrap();
        let users: BTreeSet<_> = before.iter().map(|(group, user, _)| (*group, user)).collect();
        prop_assert!(chunks.iter().sum::<usize>() >= ALL.len());
        prop_assert!(bytes_max > 20 || chunks.iter().sum::<usize>() > ALL.len() || users.len() < 20, "{:?}", chunks);
        update(&mut new, &after);
        // the smallest number is known of the rows since
        for (group, report) in ALL.iter().zip(reports(&mut new)) {
            let mine = |rows: &[(u32, String, i64)]| rows.iter().filter(|(g, ..)| g == group).cloned().collect::<Vec<_>>();
            let (before, after) = (mine(&before), mine(&after));
            let all = || before.iter().chain(&after);
            let users = all().map(|(_, user, _)| user).collect::<BTreeSet<_>>().len();
            let users = i64::try_from(users).unwrap();
            let low = after.iter().map(|(.., n)| *n).min().unwrap_or(i64::MAX);
            prop_assert_eq!(report, (all().map(|(.., n)| n).sum(), low, users));
        }
    }

    /// Exact sets become the sketches that the same rows would have made.
    #[test]
    fn sets_become_sketches(before in rows(), after in rows(), bytes_max in 1..400u64) {
        let hll = r#"{"users":"hll"}"#;
        let (mut old, mut new, mut direct) = (open::<v1::Counts>(""), open::<v2::Counts>(hll), open::<v2::Counts>(hll));
        update(&mut old, &before);
        swap::<v1::Counts, v2::Counts>(&mut old, &mut new, "", bytes_max).unwrap().unwrap();
        update(&mut new, &after);
        update(&mut direct, &[before, after].concat());
        let users = |a: &mut _| reports(a).into_iter().map(|(n, _, users)| (n, users)).collect::<Vec<_>>();
        prop_assert_eq!(users(&mut new), users(&mut direct));
        let sketches = |a: &mut <v2::Counts as Plugin>::Accumulator| a.state(&ALL, 0, u64::MAX).unwrap().columns[2].clone();
        prop_assert_eq!(sketches(&mut new), sketches(&mut direct));
    }

    #[test]
    fn functions_migrate_row_by_row(before in rows(), bytes_max in 1..400u64) {
        let mut one = open::<v1::Counts>("");
        update(&mut one, &before);
        let mut two = open::<v2::Counts>("");
        swap::<v1::Counts, v2::Counts>(&mut one, &mut two, "", bytes_max).unwrap().unwrap();
        let (mut by_one, mut by_two) = (open::<v3::Counts>(""), open::<v3::Counts>(""));
        swap::<v1::Counts, v3::Counts>(&mut one, &mut by_one, "", bytes_max).unwrap().unwrap();
        swap::<v2::Counts, v3::Counts>(&mut two, &mut by_two, "", bytes_max).unwrap().unwrap();
        let mut direct = open::<v3::Counts>("");
        update(&mut direct, &before);
        prop_assert_eq!(reports(&mut by_one), reports(&mut direct));
        prop_assert_eq!(reports(&mut by_two), reports(&mut direct));
    }
}

#[test]
fn a_sketch_never_becomes_a_set_and_a_function_may_refuse_a_row() {
    let hll = r#"{"users":"hll"}"#;
    let mut old = open::<v1::Counts>(hll);
    update(&mut old, &[(0, "ann".into(), 1)]);
    assert_eq!(swap::<v1::Counts, v2::Counts>(&mut old, &mut open::<v2::Counts>(""), hll, 1 << 20), Ok(None));
    let again = swap::<v1::Counts, v2::Counts>(&mut old, &mut open::<v2::Counts>(hll), hll, 1 << 20);
    assert_eq!(again, Ok(Some(vec![4])));

    let mut old = open::<v1::Counts>("");
    update(&mut old, &[]);
    let twice = r#"{"times":2}"#;
    assert_eq!(swap::<v1::Counts, v3::Counts>(&mut old, &mut open::<v3::Counts>(twice), "", 1 << 20), Ok(None));
    assert_eq!(swap::<v1::Counts, v3::Counts>(&mut old, &mut open::<v3::Counts>(""), twice, 1 << 20), Ok(None));
    let mut old = open::<v2::Counts>("");
    update(&mut old, &[(0, "ann".into(), 1), (3, "ann".into(), -1)]);
    assert_eq!(swap::<v2::Counts, v3::Counts>(&mut old, &mut open::<v3::Counts>(""), "", 1 << 20), Ok(None));
}

/// Why not; or `none`.
fn why<A: Aggregation>(config: &str, origin: &Origin) -> String {
    let info =
        Info { name: A::NAME.into(), version: A::VERSION.into(), config_schema: A::Config::schema().to_string() };
    plan::<A>(&Own::new(info, config, A::fields()), origin).err().unwrap_or_else(|| "none".into())
}

use millrace_plugin::config::Config as _;
use millrace_plugin::plugin::Info;

#[test]
fn a_refusal_names_everything_that_is_in_the_way() {
    let v1 = origin::<v1::Counts>("");
    let v2 = origin::<v2::Counts>("");
    assert_eq!(why::<v2::Counts>("", &v1), "none");
    assert_eq!(why::<v3::Counts>("", &v1), "none");
    assert_eq!(
        why::<v1::Counts>(r#"{"times":2}"#, &v2),
        "its options were {} and are {\"times\":2}, and #[state(any_config)] is not said of it; \
         column `sum` was double? and is float, which does not hold every value of it; \
         column `n` was long and is int, which does not hold every value of it; \
         column `noise` (long) is not in it, and #[state(default)] is not said of `noise`; \
         `low` would be lost: #[state(drops(\"low\"))] above the struct says that it may be; \
         `pages` would be lost: #[state(drops(\"pages\"))] above the struct says that it may be"
    );
    let other = Origin { name: "sums".into(), ..v1.clone() };
    assert_eq!(why::<v2::Counts>("", &other), "it is the state of another plugin, `sums`");
    // a column of a field that has several
    let mut part = v1.clone();
    part.state.retain(|field| field.name != "users.sketch");
    assert_eq!(why::<v2::Counts>("", &part), "of `users` only a part is in it: column `users.sketch` is not");
    // a function of the right version that reads other columns
    assert_eq!(
        why::<v3::Counts>("", &part),
        "`from_v1` migrates 1.x, but reads another state: column `users.sketch` is not there; \
         column `cents` (long) is not in it, and #[state(default)] is not said of `cents`; \
         of `users` only a part is in it: column `users.sketch` is not; \
         `sum` would be lost: #[state(drops(\"sum\"))] above the struct says that it may be; \
         `n` would be lost: #[state(drops(\"n\"))] above the struct says that it may be; \
         `noise` would be lost: #[state(drops(\"noise\"))] above the struct says that it may be"
    );
    let later = Origin { version: "4.0.0".into(), ..v1 };
    assert!(why::<v3::Counts>("", &later).starts_with("column `cents` (long) is not in it"));
}

#[test]
fn the_same_options_in_other_words_are_the_same() {
    for (one, other, same) in [
        ("", "{}", true),
        ("{}", r#"{"users":"exact","times":1}"#, true),
        (r#"{"times":1,"users":"hll"}"#, r#"{ "users": "hll" }"#, true),
        ("{}", r#"{"times":2}"#, false),
        ("{}", r#"{"more":2}"#, false),
        ("{}", "no JSON", false),
    ] {
        let own = Own::new(<v3::Counts as Plugin>::Accumulator::info(), one, Vec::new());
        assert_eq!(own.has_config(other), same, "{one} {other}");
    }
}

/// A value of the author's own choice, where a group has one row; and a state that does not say how long it is.
#[test]
fn defaults_of_the_authors_choice() {
    #[derive(State, Default)]
    struct Flags {
        seen: bool,
        #[state(default = "unknown".to_string())]
        label: String,
        #[state(default = 2)]
        factor: i64,
    }
    let rules = Flags::rules();
    assert_eq!(rules.fields.iter().map(|f| f.has_default).collect::<Vec<_>>(), [false, true, true]);
    let seen = ColumnRef { data: DataRef::Boolean(&[0b10]), validity: None };
    let flags = Flags::adopt(&mut [seen].iter(), 1, &[false, true, true], Flags::default()).unwrap();
    assert_eq!((flags.seen, flags.label.as_str(), flags.factor), (true, "unknown", 2));
    assert_eq!(millrace_plugin::migrate::rows(&[seen]), None);
}

use millrace_plugin::state::State as _;
