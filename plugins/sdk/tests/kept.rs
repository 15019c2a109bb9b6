//! `TopK`, `Latest` and `Earliest` against brute force: within the documented bound, and the same after a journey as
//! columns.
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

use std::collections::BTreeMap;

use millrace_plugin::column::{Column, ColumnRef};
use millrace_plugin::prelude::*;
use millrace_plugin::state::{Part, State};
use proptest::prelude::*;

#[derive(State, Clone, Debug)]
struct Kept {
    words: TopK<str>,
    rows: i64,
    numbers: TopK<i64>,
    latest: Latest<String>,
    earliest: Earliest<i64>,
}

impl Kept {
    fn new(capacity: u32) -> Self {
        Self {
            words: TopK::new(capacity),
            rows: 0,
            numbers: TopK::new(capacity),
            latest: Latest::default(),
            earliest: Earliest::default(),
        }
    }

    fn of(capacity: u32, rows: &[Row]) -> Self {
        let mut new = Self::new(capacity);
        for (number, times, time) in rows {
            new.words.add(&word(*number), *times);
            new.rows += 1;
            new.numbers.add(*number, *times);
            new.latest.set(Timestamptz(*time), word(*number));
            new.earliest.set(Timestamptz(*time), *number);
        }
        new
    }

    fn merge(&mut self, other: &Self) {
        self.words.merge(&other.words);
        self.rows += other.rows;
        self.numbers.merge(&other.numbers);
        self.latest.merge(&other.latest);
        self.earliest.merge(&other.earliest);
    }
}

/// A number, how often, and when.
type Row = (i64, i64, i64);

fn word(number: i64) -> String {
    format!("word-{number:04}")
}

/// Some values are far more frequent than others.
fn rows(max: usize) -> impl Strategy<Value = Vec<Row>> {
    let number = prop_oneof![2 => 0..4i64, 1 => 0..200i64];
    proptest::collection::vec((number, 1..5i64, 0..30i64), 0..max)
}

/// Exports in rows of so many bytes.
fn columns(kept: &Kept, bytes_max: usize) -> (Vec<Column>, usize) {
    let empty = Kept::new(1);
    let mut columns: Vec<Column> = Kept::fields().iter().map(|f| Column::empty(f.data_type)).collect();
    let (mut position, mut rows) = (Some(0), 0);
    while let Some(at) = position {
        let mut part = Part::new(at, 0, bytes_max);
        kept.export(&empty, &mut part, &mut columns.iter_mut());
        position = part.next();
        rows += 1;
    }
    (columns, rows)
}

fn travelled(kept: &Kept, bytes_max: usize) -> Kept {
    let (columns, rows) = columns(kept, bytes_max);
    let columns: Vec<ColumnRef<'_>> = columns.iter().map(Column::as_ref).collect();
    let mut parts = (0..rows).map(|row| Kept::import(&mut columns.iter(), row).unwrap());
    let mut whole = parts.next().unwrap();
    parts.for_each(|part| whole.merge(&part));
    whole
}

fn assert_same(a: &Kept, b: &Kept) {
    assert_eq!(columns(a, usize::MAX), columns(b, usize::MAX));
}

fn truth(rows: &[Row]) -> BTreeMap<i64, i64> {
    let mut counts = BTreeMap::new();
    for (number, times, _) in rows {
        *counts.entry(*number).or_default() += times;
    }
    counts
}

fn check(kept: &Kept, rows: &[Row], capacity: u32) {
    let truth = truth(rows);
    let total: i64 = truth.values().sum();
    for (error, counted) in [
        (kept.words.error(), truth.keys().map(|n| kept.words.count(&word(*n))).collect::<Vec<_>>()),
        (kept.numbers.error(), truth.keys().map(|n| kept.numbers.count(*n)).collect()),
    ] {
        assert!(error <= total / (i64::from(capacity) + 1), "{error} of {total}");
        for (counted, (number, true_count)) in counted.into_iter().zip(&truth) {
            assert!(counted <= *true_count && counted >= true_count - error, "{number}: {counted} of {true_count}");
        }
        if truth.len() <= 2 * capacity as usize {
            assert_eq!(error, 0);
        }
    }
    assert_eq!((kept.words.total(), kept.numbers.total(), kept.rows), (total, total, rows.len() as i64));
    let latest = rows.iter().map(|(number, _, time)| (*time, word(*number))).max();
    assert_eq!(kept.latest.get(), latest.as_ref().map(|(_, word)| word));
    let earliest = rows.iter().map(|(number, _, time)| (-*time, *number)).max();
    assert_eq!(kept.earliest.get().copied(), earliest.map(|(_, number)| number));
    assert_eq!(kept.earliest.time(), earliest.map(|(time, _)| Timestamptz(-time)));
}

proptest! {
    #[test]
    fn counts_stay_within_the_bound(rows in rows(300), capacity in 1..40u32) {
        let kept = Kept::of(capacity, &rows);
        check(&kept, &rows, capacity);
        let top = kept.numbers.top(5);
        prop_assert!(top.is_sorted_by(|a, b| (b.1, a.0) < (a.1, b.0)), "{:?}", top);
        prop_assert!(kept.numbers.top(usize::MAX).len() <= 2 * capacity as usize);
    }

    #[test]
    fn merging_keeps_the_bound_in_any_order(a in rows(150), b in rows(150), c in rows(150), capacity in 1..40u32) {
        let all: Vec<Row> = [a.clone(), b.clone(), c.clone()].concat();
        let [a, b, c] = [a, b, c].map(|rows| Kept::of(capacity, &rows));
        let merged = |x: &Kept, y: &Kept| {
            let mut new = x.clone();
            new.merge(y);
            new
        };
        assert_same(&merged(&a, &b), &merged(&b, &a));
        for order in [merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)), merged(&merged(&c, &a), &b)] {
            check(&order, &all, capacity);
        }
        // an empty state changes nothing
        assert_same(&merged(&a, &Kept::new(capacity)), &a);
        assert_same(&merged(&Kept::new(capacity), &a), &a);
    }

    #[test]
    fn a_journey_as_columns_changes_nothing(rows in rows(200), capacity in 1..60u32, bytes_max in 1..2000usize) {
        let kept = Kept::of(capacity, &rows);
        let after = travelled(&kept, bytes_max);
        assert_same(&after, &kept);
        // memory is counted the same way, too: no more than one value per counter
        prop_assert!(after.heap_bytes() > 0 || rows.is_empty());
        check(&after, &rows, capacity);
    }
}

#[test]
fn what_is_kept_has_columns_of_its_own() {
    let fields: Vec<String> = Kept::fields()
        .iter()
        .map(|f| format!("{}: {}{}", f.name, f.data_type, if f.nullable { "?" } else { "" }))
        .collect();
    assert_eq!(
        fields,
        [
            "words.items: list<string>",
            "words.counts: list<long>",
            "words.total: long",
            "words.capacity: long",
            "rows: long",
            "numbers.items: list<long>",
            "numbers.counts: list<long>",
            "numbers.total: long",
            "numbers.capacity: long",
            "latest.value: string?",
            "latest.time: timestamptz?",
            "earliest.value: long?",
            "earliest.time: timestamptz?",
        ]
    );
}

#[test]
fn weights_that_count_nothing_and_lists_that_do_not_fit() {
    let mut top = TopK::<i64>::new(0);
    top.add(1, 0);
    top.add(1, -3);
    assert_eq!((top.total(), top.top(9)), (0, vec![]));
    // the capacity is 1: three values are one too many
    (1..=3).for_each(|n| top.insert(n));
    assert_eq!((top.total(), top.error()), (3, 1));
    let (mut columns, _) = columns(&Kept::of(3, &[(1, 1, 1)]), 100);
    columns[1] = columns[5].clone();
    columns[1].data = millrace_plugin::column::ColumnData::ListInt64(millrace_plugin::column::List {
        offsets: vec![0, 2],
        values: vec![1, 2],
    });
    let columns: Vec<ColumnRef<'_>> = columns.iter().map(Column::as_ref).collect();
    let error = Kept::import(&mut columns.iter(), 0).unwrap_err();
    assert_eq!(error.to_string(), "a top-k has 1 items and 2 counts");
}
