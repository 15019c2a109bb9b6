//! The lowered accumulator against a naive model, under random sequences of calls, exports and restores.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "helpers of tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use millrace_plugin::aggregation::{Accumulator, Plugin, StateChunk};
use millrace_plugin::column::{Bytes, Column, ColumnData, ColumnRef, DataRef, Error, Field};
use millrace_plugin::prelude::*;
use proptest::prelude::*;

#[derive(Config)]
struct Options {
    #[config(default = "exact")]
    distinct: Distinct,
}

#[derive(Input)]
struct Row<'a> {
    user: &'a str,
    number: i64,
    amount: Option<i64>,
}

#[derive(State)]
struct Totals {
    rows: i64,
    largest: Option<i64>,
    name: String,
    users: DistinctCount<str>,
    numbers: DistinctCount<i64>,
}

#[derive(Output)]
struct Report {
    rows: i64,
    largest: Option<i64>,
    users: i64,
    numbers: i64,
}

#[aggregation(name = "totals", version = "1.0.0")]
impl Aggregation for Totals {
    type Config = Options;
    type Input<'a> = Row<'a>;
    type Output = Report;
    fn new(options: &Options) -> Self {
        let (users, numbers) = (DistinctCount::new(options.distinct), DistinctCount::new(options.distinct));
        Self { rows: 0, largest: None, name: String::new(), users, numbers }
    }
    fn update(&mut self, row: Row<'_>) -> Result<(), Reject> {
        if row.number == 7 {
            return Err(Reject::new("7 is not a number"));
        }
        self.rows += 1;
        self.largest = self.largest.max(row.amount);
        if row.user > self.name.as_str() {
            self.name = row.user.into();
        }
        self.users.insert(row.user);
        self.numbers.insert(row.number);
        Ok(())
    }
    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.largest = self.largest.max(other.largest);
        if other.name > self.name {
            self.name.clone_from(&other.name);
        }
        self.users.merge(&other.users);
        self.numbers.merge(&other.numbers);
    }
    fn evaluate(&self, _window: &Window) -> Report {
        Report { rows: self.rows, largest: self.largest, users: self.users.count(), numbers: self.numbers.count() }
    }
}

type Acc = <Totals as Plugin>::Accumulator;

const GROUPS: u32 = 6;
const WINDOW: Window = Window { start: Timestamptz(0), end: Timestamptz(1), is_final: false };

fn offered() -> Vec<Field> {
    <Row<'_> as millrace_plugin::input::InputRow<'_>>::wanted().into_iter().map(|w| w.field).collect()
}

fn open(config: &str) -> Result<Acc, Error> {
    Acc::open(config, &offered())
}

#[derive(Clone, Default, Debug)]
struct Model {
    rows: i64,
    largest: Option<i64>,
    users: BTreeSet<String>,
    numbers: BTreeSet<i64>,
}

type Event = (u32, String, i64, Option<i64>);

#[derive(Clone, Debug)]
enum Step {
    Update(Vec<Event>, bool),
    Combine(u32, u32),
    Reset(Vec<u32>),
    /// export all in chunks of so many bytes, into a fresh accumulator
    Move(u64),
    /// export one group and fold it into another
    Fold(u32, u32, u64),
}

fn user() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..300u32).prop_map(|n| format!("user-{n:010}")),
        "[a-zÿ日]{0,9}",
        Just("a rather long name, which takes several words".to_string()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let event = (0..GROUPS, user(), 0..40i64, proptest::option::of(-5..5i64));
    prop_oneof![
        4 => (proptest::collection::vec(event, 0..200), any::<bool>()).prop_map(|(e, d)| Step::Update(e, d)),
        1 => (0..GROUPS, 0..GROUPS).prop_map(|(a, b)| Step::Combine(a, b)),
        1 => proptest::collection::vec(0..GROUPS, 0..4).prop_map(Step::Reset),
        1 => (1..4000u64).prop_map(Step::Move),
        1 => (0..GROUPS, 0..GROUPS, 1..500u64).prop_map(|(a, b, n)| Step::Fold(a, b, n)),
    ]
}

fn update(acc: &mut Acc, events: &[Event], dictionary: bool) -> Vec<u32> {
    let mut text = Bytes::default();
    let mut keys = Vec::new();
    let mut known = BTreeMap::new();
    for (_, user, ..) in events {
        let next = known.len() as u32;
        let key = *known.entry(user).or_insert(next);
        if !dictionary || key == next {
            text.push(user.as_bytes());
        }
        keys.push(key);
    }
    let numbers: Vec<i64> = events.iter().map(|e| e.2).collect();
    let mut amounts = Column::empty(millrace_plugin::column::DataType::Int64);
    for (.., amount) in events {
        millrace_plugin::output::OutputField::push(amount, &mut amounts);
    }
    let users = match dictionary {
        true => DataRef::Dictionary { keys: &keys, values: text.as_ref() },
        false => DataRef::Utf8(text.as_ref()),
    };
    let columns = [
        ColumnRef { data: users, validity: None },
        ColumnRef { data: DataRef::Int64(&numbers), validity: None },
        amounts.as_ref(),
    ];
    let groups: Vec<u32> = events.iter().map(|e| e.0).collect();
    acc.update(&columns, &groups, GROUPS).unwrap().into_iter().map(|r| r.row).collect()
}

fn export(acc: &mut Acc, groups: &[u32], bytes_max: u64) -> Vec<StateChunk> {
    let mut chunks = vec![];
    let mut cursor = 0;
    loop {
        let chunk = acc.state(groups, cursor, bytes_max).unwrap();
        let next = chunk.next;
        chunks.push(chunk);
        match next {
            Some(n) => cursor = n,
            None => return chunks,
        }
    }
}

/// Values within a row are in order, and the rows of one group go on in order.
fn check_sorted(chunks: &[StateChunk]) {
    let mut last: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for chunk in chunks {
        let ColumnData::ListUtf8(list) = &chunk.columns[3].data else { panic!("users.values") };
        for (row, group) in chunk.groups.iter().enumerate() {
            for i in list.offsets[row]..list.offsets[row + 1] {
                let (a, b) = (list.values.offsets[i as usize], list.values.offsets[i as usize + 1]);
                let value = list.values.data[a as usize..b as usize].to_vec();
                if let Some(before) = last.get(group) {
                    assert!(before < &value, "{before:?} before {value:?}");
                }
                last.insert(*group, value);
            }
        }
    }
}

fn refs(chunk: &StateChunk) -> Vec<ColumnRef<'_>> {
    chunk.columns.iter().map(Column::as_ref).collect()
}

fn check(acc: &mut Acc, model: &[Model]) {
    let groups: Vec<u32> = (0..GROUPS).collect();
    let out = acc.evaluate(&groups, &[WINDOW; GROUPS as usize]).unwrap();
    assert_eq!(out.groups, None);
    let ints = |i: usize| match &out.columns[i].data {
        ColumnData::Int64(v) => v.clone(),
        other => panic!("{other:?}"),
    };
    let largest: Vec<Option<i64>> =
        ints(1).into_iter().enumerate().map(|(i, v)| out.columns[1].as_ref().is_valid(i).then_some(v)).collect();
    assert_eq!(ints(0), model.iter().map(|m| m.rows).collect::<Vec<_>>());
    assert_eq!(largest, model.iter().map(|m| m.largest).collect::<Vec<_>>());
    assert_eq!(ints(2), model.iter().map(|m| m.users.len() as i64).collect::<Vec<_>>());
    assert_eq!(ints(3), model.iter().map(|m| m.numbers.len() as i64).collect::<Vec<_>>());
}

fn fold(model: &mut [Model], source: u32, target: u32) {
    let from = model[source as usize].clone();
    let to = &mut model[target as usize];
    to.rows += from.rows;
    to.largest = to.largest.max(from.largest);
    to.users.extend(from.users);
    to.numbers.extend(from.numbers);
}

fn run(steps: Vec<Step>) {
    let mut acc = open("").unwrap();
    let mut model = vec![Model::default(); GROUPS as usize];
    update(&mut acc, &[], false);
    for step in steps {
        match step {
            Step::Update(events, dictionary) => {
                let rejected = update(&mut acc, &events, dictionary);
                let bad: Vec<u32> = (0..).zip(&events).filter(|(_, e)| e.2 == 7).map(|(i, _)| i).collect();
                assert_eq!(rejected, bad);
                for (group, user, number, amount) in events.into_iter().filter(|e| e.2 != 7) {
                    let m = &mut model[group as usize];
                    m.rows += 1;
                    m.largest = m.largest.max(amount);
                    m.users.insert(user);
                    m.numbers.insert(number);
                }
            }
            Step::Combine(a, b) if a != b => {
                acc.combine(&[a], &[b]).unwrap();
                fold(&mut model, a, b);
            }
            Step::Combine(a, _) => assert!(acc.combine(&[a], &[a]).is_err()),
            Step::Reset(groups) => {
                acc.reset(&groups).unwrap();
                groups.iter().for_each(|g| model[*g as usize] = Model::default());
            }
            Step::Move(bytes_max) => {
                let groups: Vec<u32> = (0..GROUPS).collect();
                let chunks = export(&mut acc, &groups, bytes_max);
                check_sorted(&chunks);
                let mut fresh = open("{}").unwrap();
                for chunk in &chunks {
                    fresh.merge(&refs(chunk), &chunk.groups, GROUPS).unwrap();
                }
                // what comes back is exactly what went out
                assert_eq!(export(&mut fresh, &groups, u64::MAX), export(&mut acc, &groups, u64::MAX));
                acc = fresh;
            }
            Step::Fold(a, b, bytes_max) => {
                for chunk in export(&mut acc, &[a], bytes_max) {
                    acc.merge(&refs(&chunk), &vec![b; chunk.groups.len()], GROUPS).unwrap();
                }
                fold(&mut model, a, b);
            }
        }
        check(&mut acc, &model);
    }
    let held = acc.size();
    acc.reset(&(0..GROUPS).collect::<Vec<_>>()).unwrap();
    check(&mut acc, &vec![Model::default(); GROUPS as usize]);
    assert!(acc.size() <= held.max(400_000), "{} after {held}", acc.size());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn the_accumulator_equals_the_model(steps in proptest::collection::vec(step(), 1..20)) {
        run(steps);
    }
}

/// More strings than the interner keeps without a collection: the live ones survive it.
#[test]
fn garbage_is_collected_and_what_lives_stays() {
    let mut acc = open("").unwrap();
    let mut model = vec![Model::default(); GROUPS as usize];
    let keep: Vec<Event> = (0..5000).map(|n| (0, format!("kept-{n}"), 1, None)).collect();
    update(&mut acc, &keep, false);
    let mut high = 0;
    for round in 0..8 {
        let waste: Vec<Event> = (0..60_000).map(|n| (1, format!("waste-{round}-{n:08}"), 1, None)).collect();
        update(&mut acc, &waste, true);
        high = high.max(acc.size());
        acc.reset(&[1]).unwrap();
    }
    assert!(acc.size() < high / 4, "{} of {high}", acc.size());
    update(&mut acc, &keep, true);
    model[0] = Model {
        rows: 10_000,
        largest: None,
        users: keep.iter().map(|e| e.1.clone()).collect(),
        numbers: BTreeSet::from([1]),
    };
    check(&mut acc, &model);
    check_sorted(&export(&mut acc, &[0], 1000));
    acc.reset(&[0]).unwrap();
    assert!(acc.size() < high / 20, "{} of {high}", acc.size());
}

#[test]
fn sketches_travel_and_their_memory_is_counted() {
    let mut acc = open(r#"{"distinct": "hll"}"#).unwrap();
    update(&mut acc, &[], false);
    let empty = acc.size();
    let events: Vec<Event> = (0..20_000).map(|n| (0, format!("user-{n}"), n + 10, None)).collect();
    update(&mut acc, &events, false);
    assert!(acc.size() >= empty + 2 * 4096);
    let mut fresh = open(r#"{"distinct": "hll"}"#).unwrap();
    for chunk in export(&mut acc, &[0], 100) {
        fresh.merge(&refs(&chunk), &chunk.groups, GROUPS).unwrap();
    }
    for acc in [&mut acc, &mut fresh] {
        let out = acc.evaluate(&[0], &[WINDOW]).unwrap();
        for column in [2, 3] {
            let ColumnData::Int64(counts) = &out.columns[column].data else { panic!("counts") };
            assert!((counts[0] - 20_000).abs() < 1300, "{counts:?}");
        }
    }
    acc.reset(&[0]).unwrap();
    assert!(acc.size() <= empty + 200_000, "{} {empty}", acc.size());
}

#[test]
fn configuration_errors_say_what_is_allowed() {
    let message = |config: &str| match open(config) {
        Err(Error::Config(m)) => m,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(message(r#"{"distnct": "hll"}"#), "unknown option `distnct`; there are: distinct");
    assert_eq!(message(r#"{"distinct": "some"}"#), "option `distinct`: \"exact\" or \"hll\" is wanted, found \"some\"");
    assert_eq!(message("[1]"), "the configuration is a table of options, not [1]");
    let schema = Acc::info().config_schema;
    assert!(schema.contains(r#""default":"exact""#) && schema.contains(r#""additionalProperties":false"#), "{schema}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = |columns: &[ColumnRef<'_>]| open("").unwrap().update(columns, &[0, 0], 1).unwrap_err().to_string();
    let users = |offsets, data| ColumnRef {
        data: DataRef::Utf8(millrace_plugin::column::BytesRef { offsets, data }),
        validity: None,
    };
    let ints = |v| ColumnRef { data: DataRef::Int64(v), validity: None };
    let good = users(&[0, 1, 2], b"ab");
    assert_eq!(error(&[good]), "1 columns came, 3 were wanted");
    assert_eq!(error(&[good, ints(&[1]), ints(&[1, 2])]), "column `number` has 1 values for 2 rows");
    assert_eq!(error(&[ints(&[1, 2]), ints(&[1, 2]), ints(&[1, 2])]), "column `user` is long, not string");
    for (offsets, data) in
        [(&[0u32, 1, 9], &b"ab"[..]), (&[0, 2, 1], b"ab"), (&[0, 1, 2], "é".as_bytes()), (&[0, 1, 2], &[0xFF, 0x41])]
    {
        assert!(error(&[users(offsets, data), ints(&[1, 2]), ints(&[1, 2])]).starts_with("column `user` is damaged"));
    }
    let null = ColumnRef { data: DataRef::Int64(&[1, 2]), validity: Some(&[0b10]) };
    assert_eq!(error(&[good, null, ints(&[1, 2])]), "column `number` holds a null, and the plugin takes none");
    let missing = Acc::open("", &offered()[1..]).err().unwrap().to_string();
    assert_eq!(missing, "column `user` (string) is missing");
    assert!(open("").unwrap().update(&[good, ints(&[1, 2]), ints(&[1, 2])], &[0, 1], 1).is_err());
}
