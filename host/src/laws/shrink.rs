//! The smallest trial that still breaks a law: rows are taken out in halves, quarters, … down to single ones (Zeller and
//! Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002), then values are made simpler one at a time;
//! again and again, until nothing more can go.

use millrace_core::schema::{DataType, Field};
use serde_json::Value;

use super::subject::LawSubject;
use super::{Broken, Law, Trial, check};
use crate::golden::rows::Row;
use crate::spec::model::EventTimeSpec;

/// Trials that are run at the most: an interpreter inside a plugin takes its time to start.
const TRIALS_MAX: usize = 600;

/// `trial` breaks the law; so does what is returned, and no single row can be left out of it.
pub fn shrink(law: Law, subject: &LawSubject, trial: Trial, seen: Broken) -> (Trial, Broken) {
    let mut smallest = Smallest { law, subject, trial, seen, left: TRIALS_MAX };
    loop {
        let before = smallest.trial.clone();
        smallest.fewer_rows();
        smallest.simpler_everywhere();
        smallest.simpler_values();
        if smallest.trial == before || smallest.left == 0 {
            return (smallest.trial, smallest.seen);
        }
    }
}

struct Smallest<'a> {
    law: Law,
    subject: &'a LawSubject,
    trial: Trial,
    seen: Broken,
    left: usize,
}

impl Smallest<'_> {
    fn try_this(&mut self, trial: Trial) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        match check(self.law, self.subject, &trial) {
            Some(seen) => {
                (self.trial, self.seen) = (trial, seen);
                true
            }
            None => false,
        }
    }

    fn fewer_rows(&mut self) {
        let mut size = self.trial.rows.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.trial.rows.len() {
                let mut fewer = self.trial.clone();
                fewer.rows.drain(from..(from + size).min(fewer.rows.len()));
                if !self.try_this(fewer) {
                    from += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// A value of a column replaced wherever it stands: rows of one group stay so.
    fn simpler_everywhere(&mut self) {
        for field in self.subject.schema.schema.fields.clone() {
            let of_column = |(_, row): &(usize, Row)| row.get(&field.name).cloned();
            let mut values: Vec<Value> = Vec::new();
            for value in self.trial.rows.iter().filter_map(of_column) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            for now in values {
                for simpler in self.simpler(&field, Some(&now)) {
                    let mut trial = self.trial.clone();
                    for (_, row) in trial.rows.iter_mut().filter(|(_, row)| row.get(&field.name) == Some(&now)) {
                        put(row, &field.name, simpler.clone());
                    }
                    if self.try_this(trial) {
                        break;
                    }
                }
            }
        }
    }

    fn simpler_values(&mut self) {
        let fields = self.subject.schema.schema.fields.clone();
        for at in 0..self.trial.rows.len() {
            for field in &fields {
                let now = self.trial.rows.get(at).and_then(|(_, row)| row.get(&field.name)).cloned();
                for simpler in self.simpler(field, now.as_ref()) {
                    let mut trial = self.trial.clone();
                    let Some((_, row)) = trial.rows.get_mut(at) else { break };
                    put(row, &field.name, simpler);
                    if self.try_this(trial) {
                        break;
                    }
                }
            }
        }
    }

    /// What could stand there instead, the simplest first; nothing that is not simpler than what stands there.
    fn simpler(&self, field: &Field, now: Option<&Value>) -> Vec<Option<Value>> {
        let Some(now) = now else { return Vec::new() };
        if matches!(&self.subject.event_time, EventTimeSpec::Column { name, .. } if *name == field.name) {
            // all at the first row's time, which is simple enough
            let first = self.trial.rows.first().and_then(|(_, row)| row.get(&field.name)).cloned();
            return first.filter(|first| first != now).map(Some).into_iter().collect();
        }
        let null = field.nullable.then_some(None);
        let values: Vec<Value> = match field.data_type {
            DataType::Boolean => vec![false.into()],
            DataType::Int | DataType::Long => vec![0.into(), 1.into(), 2.into()],
            DataType::Float | DataType::Double => vec![0.0.into(), 1.0.into(), 2.0.into()],
            DataType::Decimal { .. } => vec!["0".into(), "1".into()],
            DataType::Date => vec!["1970-01-01".into()],
            DataType::Timestamp => vec!["1970-01-01T00:00:00".into()],
            DataType::Timestamptz => vec!["1970-01-01T00:00:00Z".into()],
            DataType::String => vec!["".into(), "a".into(), "b".into()],
            DataType::Binary => vec!["".into()],
            DataType::ListLong | DataType::ListDouble | DataType::ListString => Vec::new(),
        };
        let until = values.iter().position(|value| value == now).unwrap_or(values.len());
        null.into_iter().chain(values.into_iter().take(until).map(Some)).collect()
    }
}

fn put(row: &mut Row, column: &str, value: Option<Value>) {
    match value {
        Some(value) => row.insert(column.to_owned(), value),
        None => row.remove(column),
    };
}
