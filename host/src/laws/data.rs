//! Trials: the rows of a case as they are, and seeded rows made of the case's own values and of values that are easily
//! got wrong. A sum of the largest numbers here stays within 64 bits: whether a plugin overflows is its author's choice.

use millrace_core::schema::DataType;
use serde_json::Value;

use super::subject::LawSubject;
use crate::golden::case::Case;
use crate::golden::rows::{self, Row};
use crate::spec::model::EventTimeSpec;

/// Rows with the part (from 0) that each belongs to, in the order of the parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    pub rows: Vec<(usize, Row)>,
    pub parts: usize,
}

/// Parts that every trial has: laws are about A, B and C.
pub const PARTS: usize = 3;

/// Rows of the generated trials: small ones for what goes wrong at once, a large one for what takes many.
const GENERATED_ROWS: [usize; 4] = [3, 12, 60, 400];

/// Of a case with many events, the first ones do.
const GIVEN_ROWS_MAX: usize = 2_000;

impl Trial {
    pub fn new(rows: Vec<Row>, cuts: [usize; 2]) -> Self {
        let part = |at: usize| cuts.iter().filter(|cut| at >= **cut).count();
        Self { rows: rows.into_iter().enumerate().map(|(at, row)| (part(at), row)).collect(), parts: PARTS }
    }

    /// A case's steps as parts.
    pub fn of_steps(case: &Case) -> Self {
        let rows = case.steps.iter().enumerate();
        let rows =
            rows.flat_map(|(part, step)| rows::encode(&step.events.rows).into_iter().map(move |row| (part, row)));
        Self { rows: rows.collect(), parts: case.steps.len().max(PARTS) }
    }
}

/// The case's rows, then the generated ones. The seed is the same for ever: a red run is red again.
pub fn trials(subject: &LawSubject, case: &Case) -> Vec<Trial> {
    let mut given: Vec<Row> = case.steps.iter().flat_map(|step| rows::encode(&step.events.rows)).collect();
    given.truncate(GIVEN_ROWS_MAX);
    let n = given.len();
    let mut out = vec![Trial::new(given.clone(), [n.div_ceil(3), (2 * n).div_ceil(3)])];
    if n > 3 {
        out.push(Trial::new(given.clone(), [1, n - 1]));
    }
    let mut random = Random(0x6d69_6c6c_7261_6365);
    for rows in GENERATED_ROWS {
        let made = (0..rows).map(|_| row(subject, &given, &mut random)).collect();
        let cut = [random.below(rows + 1), random.below(rows + 1)];
        out.push(Trial::new(made, [cut[0].min(cut[1]), cut[0].max(cut[1])]));
    }
    out
}

/// Many rows of the case's own values, for measuring.
pub fn many(case: &Case, rows: usize) -> Trial {
    let given: Vec<Row> = case.steps.iter().flat_map(|step| rows::encode(&step.events.rows)).collect();
    let made = given.iter().cycle().take(rows).cloned().collect();
    Trial::new(made, [rows, rows])
}

/// A group for a row, as hashes are: without a pattern.
pub fn spread(row: u32, groups: u32) -> u32 {
    let hash = Random(u64::from(row)).next();
    u32::try_from(hash % u64::from(groups.max(1))).unwrap_or(0)
}

fn row(subject: &LawSubject, given: &[Row], random: &mut Random) -> Row {
    let fields = &subject.schema.schema.fields;
    let mut row = Row::new();
    for field in fields {
        let is_event_time = matches!(&subject.event_time, EventTimeSpec::Column { name, .. } if *name == field.name);
        let own = (!given.is_empty()).then(|| given.get(random.below(given.len()))).flatten();
        let own = own.and_then(|row| row.get(&field.name)).cloned();
        // one in four is an edge; what the case never has must come from somewhere
        let edge = !is_event_time && (random.below(4) == 0 || (own.is_none() && !field.nullable));
        let value = if !edge {
            own
        } else if field.nullable && random.below(4) == 0 {
            None
        } else {
            let edges = edges(field.data_type);
            edges.get(random.below(edges.len())).cloned()
        };
        if let Some(value) = value {
            row.insert(field.name.clone(), value);
        }
    }
    row
}

/// Values of a type that are easily got wrong.
fn edges(data_type: DataType) -> Vec<Value> {
    let all = |values: &[&str]| values.iter().map(|v| Value::from(*v)).collect();
    match data_type {
        DataType::Boolean => vec![false.into(), true.into()],
        DataType::Int => vec![0.into(), 1.into(), (-1).into(), i32::MAX.into(), i32::MIN.into()],
        // more than 32 bits, and more than a double holds exactly
        DataType::Long => {
            vec![0.into(), 1.into(), (-1).into(), 4_294_967_297_i64.into(), 9_007_199_254_740_993_i64.into()]
        }
        DataType::Float | DataType::Double => vec![0.0.into(), (-1.0).into(), 0.1.into(), 1e12.into(), "NaN".into()],
        DataType::Decimal { precision, scale } => {
            let whole = "9".repeat(usize::from(precision.saturating_sub(scale).min(9)).max(1));
            if precision > scale { all(&["0", "1", "-1", &whole]) } else { all(&["0"]) }
        }
        DataType::Date => all(&["1970-01-01", "1969-12-31", "2000-02-29"]),
        DataType::Timestamp => all(&["1970-01-01T00:00:00", "1969-12-31T23:59:59.999999"]),
        DataType::Timestamptz => all(&["1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z"]),
        DataType::String => all(&["", "a", "A", " ", "0", "null", "é", "日本語", "🦀", "e\u{301}", "a\"b\\c\n"]),
        DataType::Binary => all(&["", "AA==", "/w=="]),
        DataType::ListLong | DataType::ListDouble | DataType::ListString => vec![Value::Array(Vec::new())],
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 if `bound` is 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}
