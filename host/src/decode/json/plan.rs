//! What is looked for in a message: made once from the schema, read for every message.

use std::collections::HashMap;

use millrace_core::schema::DataType;

use crate::spec::model::{EventTimeSpec, SourceSchema, TimeUnit};

/// The fast path keeps the columns of a row as the bits of a word.
pub(super) const FAST_COLUMNS_MAX: usize = 64;

/// A column's type, with what is needed to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    /// numbers are in `unit`; with `zoned`, strings must name their zone
    Timestamp {
        unit: TimeUnit,
        zoned: bool,
    },
    String,
    /// the event time in a column of strings: RFC 3339 with a zone
    TimeText,
    Binary,
}

#[derive(Clone, Debug)]
pub(super) struct ColumnPlan {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) type_name: String,
    /// a message without a value for it has failed
    pub(super) required: bool,
    pub(super) is_event_time: bool,
    /// how its key looks in the common message; `None` for nested columns
    pub(super) key: Option<Key>,
}

/// `"name":` as the bytes to expect, the first 16 of them also as one word.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: Vec<u8>,
    pub(super) word: u128,
    pub(super) mask: u128,
}

/// The columns as a tree of object members: what a path reaches into.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) column: Option<usize>,
    pub(super) children: HashMap<Vec<u8>, Node>,
}

/// Where event times come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventTime {
    RecordTimestamp,
    /// microseconds in column `.0`
    Micros(usize),
    /// days in column `.0`
    Days(usize),
    /// integers of the unit in column `.0`
    Number(usize, TimeUnit),
    /// RFC 3339 in column `.0`
    Text(usize),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) columns: Vec<ColumnPlan>,
    pub(super) root: Node,
    pub(super) event_time: EventTime,
    /// the fast path may be tried at all
    pub(super) fast: bool,
    /// bits of the required columns (of the first [`FAST_COLUMNS_MAX`])
    pub(super) required_bits: u64,
    /// `follow[c + 1]`: the column last seen after column c, `follow[0]`: the first one. A guess, learnt as it goes.
    pub(super) follow: Vec<usize>,
}

impl Plan {
    pub(super) fn new(schema: &SourceSchema, event_time: &EventTimeSpec) -> Result<Self, String> {
        let fields = &schema.schema.fields;
        if fields.len() != schema.paths.len() {
            return Err(format!("a schema of {} columns with {} paths", fields.len(), schema.paths.len()));
        }
        let event_time_column = match event_time {
            EventTimeSpec::RecordTimestamp => None,
            EventTimeSpec::Column { name, unit } => {
                let index = schema
                    .schema
                    .index_of(name)
                    .ok_or_else(|| format!("event_time names column `{name}`, which the schema does not have"))?;
                Some((index, *unit))
            }
        };
        let mut root = Node::default();
        let mut columns = Vec::with_capacity(fields.len());
        for (index, (field, path)) in fields.iter().zip(&schema.paths).enumerate() {
            let is_event_time = event_time_column.is_some_and(|(i, _)| i == index);
            let unit = match event_time_column {
                Some((i, unit)) if i == index => unit,
                _ => TimeUnit::Millis,
            };
            let kind = kind_of(field.data_type, unit)
                .map(|kind| if is_event_time && kind == Kind::String { Kind::TimeText } else { kind })
                .ok_or_else(|| format!("column `{}`: a message cannot hold a {}", field.name, field.data_type))?;
            let mut node = &mut root;
            for step in path {
                node = node.children.entry(step.clone().into_bytes()).or_default();
            }
            if path.is_empty() || node.column.replace(index).is_some() {
                return Err(format!("column `{}`: its path is empty or another column's, too", field.name));
            }
            columns.push(ColumnPlan {
                name: field.name.clone(),
                kind,
                type_name: field.data_type.to_string(),
                required: !field.nullable || is_event_time,
                is_event_time,
                key: match path.as_slice() {
                    [name] => Some(Key::new(name)),
                    _ => None,
                },
            });
        }
        let event_time = match event_time_column {
            None => EventTime::RecordTimestamp,
            Some((index, unit)) => match columns.get(index).map(|c| c.kind) {
                Some(Kind::Timestamp { .. }) => EventTime::Micros(index),
                Some(Kind::Date) => EventTime::Days(index),
                Some(Kind::Int | Kind::Long) => EventTime::Number(index, unit),
                Some(Kind::TimeText) => EventTime::Text(index),
                _ => {
                    let name = columns.get(index).map_or("", |c| c.name.as_str());
                    return Err(format!(
                        "event_time names column `{name}`, which is no time: make it timestamptz, timestamp, date, long or string"
                    ));
                }
            },
        };
        let plain = |name: &[u8]| name.iter().all(|b| *b >= b' ' && *b != b'"' && *b != b'\\');
        let fast = columns.len() <= FAST_COLUMNS_MAX && root.children.keys().all(|name| plain(name));
        let required_bits = columns
            .iter()
            .take(FAST_COLUMNS_MAX)
            .enumerate()
            .filter(|(_, c)| c.required)
            .fold(0, |bits, (i, _)| bits | 1 << i);
        let follow = (0..=columns.len()).collect();
        Ok(Self { columns, root, event_time, fast, required_bits, follow })
    }
}

impl Key {
    fn new(name: &str) -> Self {
        let mut text = Vec::with_capacity(name.len() + 3);
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":");
        let (mut word, mut mask) = ([0; 16], [0; 16]);
        for ((w, m), b) in word.iter_mut().zip(&mut mask).zip(&text) {
            (*w, *m) = (*b, 0xff);
        }
        Self { text, word: u128::from_le_bytes(word), mask: u128::from_le_bytes(mask) }
    }
}

fn kind_of(data_type: DataType, unit: TimeUnit) -> Option<Kind> {
    Some(match data_type {
        DataType::Boolean => Kind::Boolean,
        DataType::Int => Kind::Int,
        DataType::Long => Kind::Long,
        DataType::Float => Kind::Float,
        DataType::Double => Kind::Double,
        DataType::Decimal { precision, scale } => Kind::Decimal { precision, scale },
        DataType::Date => Kind::Date,
        DataType::Timestamp => Kind::Timestamp { unit, zoned: false },
        DataType::Timestamptz => Kind::Timestamp { unit, zoned: true },
        DataType::String => Kind::String,
        DataType::Binary => Kind::Binary,
        DataType::ListLong | DataType::ListDouble | DataType::ListString => return None,
    })
}
