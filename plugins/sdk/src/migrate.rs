//! State of another version, or of another configuration, taken over: what the attributes of a state say of it
//! ([`Rules`]), which old column becomes which new one, and why it cannot be done.
//!
//! ```text
//!   origin                    ┌ same name, schema, options ─▶ as it is: nobody is asked
//!   name, version, config, ──▶├ a #[migrate] function fits ─▶ old row → function → new row
//!   columns                   ├ the options are the same, ──▶ old column → widened → new column
//!                             │ or #[state(any_config)]       no old column → #[state(default)]
//!                             └ else: refused, with everything that is in the way in one line of the log
//! ```
//!
//! A group with a large set travels in several rows, and a window may be put together from panes: every row is migrated by
//! itself, and merged afterwards.

use crate::aggregation::{Aggregation, Origin};
use crate::column::{BytesRef, Column, ColumnData, ColumnRef, DataRef, DataType, Error, Field};
use crate::config;
use crate::plugin::{Info, Reject};

/// What a state's attributes say of older states: made by `#[derive(State)]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub fields: Vec<FieldRule>,
    /// old fields that may be lost
    pub drops: &'static [&'static str],
    /// a state made under other options means the same
    pub any_config: bool,
}

/// One field of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    pub name: &'static str,
    pub columns: Vec<Field>,
    /// a state without these columns is taken, too
    pub has_default: bool,
}

/// A function under `#[migrate]`.
pub struct Migration<A: Aggregation> {
    pub name: &'static str,
    /// versions that it migrates: `1`, `1.x`, `1.2.x`, `1.2.3`
    pub from: &'static str,
    /// the columns that it reads
    pub fields: fn() -> Vec<Field>,
    pub migrate: MigrateRow<A>,
}

/// One row of old state → one of new state.
pub type MigrateRow<A> =
    fn(&mut std::slice::Iter<'_, ColumnRef<'_>>, usize, &Origin, &<A as Aggregation>::Config) -> Result<A, Stop>;

/// Why a state is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// it cannot be
    Refused(String),
    /// it is damaged
    Broken(Error),
}

impl Stop {
    /// Names the field.
    pub fn within(self, field: &str) -> Self {
        match self {
            Self::Refused(why) => Self::Refused(format!("`{field}`: {why}")),
            Self::Broken(error) => Self::Broken(error),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

/// What a function under `#[migrate]` may return: the state, an `Option` of it, or `Result<Self, Reject>` with the reason.
#[diagnostic::on_unimplemented(
    message = "a migration to `{S}` cannot return `{Self}`",
    label = "return `Self`, `Option<Self>` or `Result<Self, Reject>`"
)]
pub trait Migrated<S> {
    fn migrated(self) -> Result<S, Stop>;
}

impl<S> Migrated<S> for S {
    fn migrated(self) -> Result<S, Stop> {
        Ok(self)
    }
}

impl<S> Migrated<S> for Option<S> {
    fn migrated(self) -> Result<S, Stop> {
        self.ok_or_else(|| Stop::Refused("it has a row that cannot be migrated".into()))
    }
}

impl<S> Migrated<S> for Result<S, Reject> {
    fn migrated(self) -> Result<S, Stop> {
        self.map_err(|reject| Stop::Refused(reject.0))
    }
}

/// What an instance was opened with: a state of the same is taken as it is.
#[derive(Clone, Debug)]
pub struct Own {
    info: Info,
    config: String,
    state: Vec<Field>,
}

impl Own {
    pub fn new(info: Info, config: &str, state: Vec<Field>) -> Self {
        Self { info, config: config.into(), state }
    }

    /// Whether nothing differs but perhaps the version.
    pub fn is(&self, origin: &Origin) -> bool {
        origin.name == self.info.name && origin.state == self.state && self.has_config(&origin.config)
    }

    /// Whether these options mean the same: defaults are filled in.
    pub fn has_config(&self, config: &str) -> bool {
        config::same(&self.config, config, &self.info.config_schema)
    }

    /// What is seen of it in a message.
    fn config(&self) -> &str {
        shown_config(&self.config)
    }
}

fn shown_config(config: &str) -> &str {
    if config.trim().is_empty() { "{}" } else { config }
}

/// Whether a version is among those that `from` names. A pre-release counts as the version that it precedes.
pub fn covers(from: &str, version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.');
    from.split('.').all(|wanted| match (wanted, numbers.next()) {
        ("x", Some(_)) => true,
        (wanted, Some(found)) => wanted.parse::<u64>().is_ok_and(|w| found.parse() == Ok(w)),
        (_, None) => false,
    })
}

/// How the rows of an old state are read.
pub enum Plan<A: Aggregation> {
    /// by this function; where its columns are in the old state
    Function(MigrateRow<A>, Vec<Source>),
    /// field by field: which of them are lacking (in the order of fields), where the columns of the others are
    Fields(Vec<bool>, Vec<Source>),
}

/// Where a column comes from: the old state's column, and what it is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub index: usize,
    pub to: DataType,
}

/// Decides how a state of that origin is read; if it is not, all that is in the way.
pub fn plan<A: Aggregation>(own: &Own, origin: &Origin) -> Result<Plan<A>, String> {
    if origin.name != own.info.name {
        return Err(format!("it is the state of another plugin, `{}`", origin.name));
    }
    let mut notes = Vec::new();
    for Migration { name, from, fields, migrate } in A::MIGRATIONS {
        if covers(from, &origin.version) {
            match exactly(&fields(), &origin.state) {
                Ok(sources) => return Ok(Plan::Function(*migrate, sources)),
                Err(why) => notes.push(format!("`{name}` migrates {from}, but reads another state: {why}")),
            }
        }
    }
    let rules = A::rules();
    if !rules.any_config && !own.has_config(&origin.config) {
        let (then, now) = (shown_config(&origin.config), own.config());
        notes.push(format!("its options were {then} and are {now}, and #[state(any_config)] is not said of it"));
    }
    let found = by_field(&rules, &origin.state, &mut notes);
    if notes.is_empty() { Ok(found) } else { Err(notes.join("; ")) }
}

/// The same columns, in any order.
fn exactly(wanted: &[Field], old: &[Field]) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for field in wanted {
        match old.iter().position(|o| o.name == field.name) {
            None => return Err(format!("column `{}` is not there", field.name)),
            Some(index) if old.get(index) != Some(field) => {
                let found = old.get(index).map(shown).unwrap_or_default();
                return Err(format!("column `{}` is {found}, not {}", field.name, shown(field)));
            }
            Some(index) => sources.push(Source { index, to: field.data_type }),
        }
    }
    match old.iter().find(|o| !wanted.iter().any(|f| f.name == o.name)) {
        Some(more) => Err(format!("column `{}` is not read", more.name)),
        None => Ok(sources),
    }
}

/// By the rules of the fields; what is in the way goes into `notes`.
fn by_field<A: Aggregation>(rules: &Rules, old: &[Field], notes: &mut Vec<String>) -> Plan<A> {
    let (mut lacks, mut sources) = (Vec::new(), Vec::new());
    for FieldRule { name, columns, has_default } in &rules.fields {
        let (there, missing): (Vec<&Field>, Vec<&Field>) =
            columns.iter().partition(|c| old.iter().any(|o| o.name == c.name));
        lacks.push(there.is_empty());
        match (there.is_empty(), missing.first()) {
            (true, Some(first)) if !has_default => notes.push(format!(
                "column `{}` ({}) is not in it, and #[state(default)] is not said of `{name}`",
                first.name,
                shown(first)
            )),
            (false, Some(first)) => {
                notes.push(format!("of `{name}` only a part is in it: column `{}` is not", first.name));
            }
            _ => {}
        }
        for column in there {
            let found = old.iter().enumerate().find(|(_, o)| o.name == column.name);
            match found {
                Some((index, field)) if widens(field, column) => {
                    sources.push(Source { index, to: column.data_type });
                }
                Some((_, field)) => notes.push(format!(
                    "column `{}` was {} and is {}, which does not hold every value of it",
                    column.name,
                    shown(field),
                    shown(column)
                )),
                None => {}
            }
        }
    }
    let is_dropped = |column: &str| {
        rules.drops.iter().any(|d| column.strip_prefix(d).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let mut lost: Vec<&str> = Vec::new();
    for column in old.iter().map(|field| field.name.as_str()) {
        let is_kept = rules.fields.iter().any(|rule| rule.columns.iter().any(|c| c.name == column));
        if !is_kept && !is_dropped(column) {
            // a field with several columns is named once
            lost.push(column.split('.').next().unwrap_or(column));
        }
    }
    lost.dedup();
    for field in lost {
        notes.push(format!(
            "`{field}` would be lost: #[state(drops(\"{field}\"))] above the struct says that it may be"
        ));
    }
    Plan::Fields(lacks, sources)
}

fn shown(field: &Field) -> String {
    format!("{}{}", field.data_type, if field.nullable { "?" } else { "" })
}

/// Whether the new column holds every value of the old one.
fn widens(old: &Field, new: &Field) -> bool {
    let by_type = match (old.data_type, new.data_type) {
        (DataType::Int32, DataType::Int64) | (DataType::Float32, DataType::Float64) => true,
        (DataType::Decimal { precision, scale }, DataType::Decimal { precision: wider, scale: same }) => {
            precision <= wider && scale == same
        }
        (old, new) => old == new,
    };
    by_type && (new.nullable || !old.nullable)
}

/// Columns whose values have been made wider; the others are taken as they came.
pub struct Widened(Vec<Option<Column>>);

impl Widened {
    pub fn new(state: &[ColumnRef<'_>], sources: &[Source]) -> Self {
        let widen = |Source { index, to }: &Source| {
            let data = match (state.get(*index)?.data, to) {
                (DataRef::Int32(v), DataType::Int64) => ColumnData::Int64(v.iter().copied().map(i64::from).collect()),
                (DataRef::Float32(v), DataType::Float64) => {
                    ColumnData::Float64(v.iter().copied().map(f64::from).collect())
                }
                _ => return None,
            };
            Some(Column { data, validity: None, rows: 0 })
        };
        Self(sources.iter().map(widen).collect())
    }

    /// The columns in the order of the sources.
    pub fn columns<'a>(&'a self, state: &[ColumnRef<'a>], sources: &[Source]) -> Vec<ColumnRef<'a>> {
        let pick = |(Source { index, .. }, widened): (&Source, &'a Option<Column>)| {
            let old = state.get(*index).copied().unwrap_or(ColumnRef::MISSING);
            match widened {
                Some(column) => ColumnRef { validity: old.validity, ..column.as_ref() },
                None => old,
            }
        };
        sources.iter().zip(&self.0).map(pick).collect()
    }
}

/// How many rows a state has. A column of booleans does not say: its bits are rounded up to bytes.
pub fn rows(state: &[ColumnRef<'_>]) -> Option<usize> {
    let ends = |offsets: &[u32]| Some(offsets.len().saturating_sub(1));
    state.iter().find_map(|column| match column.data {
        DataRef::Missing | DataRef::Boolean(_) => None,
        DataRef::Int32(v) | DataRef::Date(v) => Some(v.len()),
        DataRef::Int64(v) | DataRef::Timestamp(v) | DataRef::Timestamptz(v) => Some(v.len()),
        DataRef::Float32(v) => Some(v.len()),
        DataRef::Float64(v) => Some(v.len()),
        DataRef::Decimal(v) => Some(v.len() / 2),
        DataRef::Dictionary { keys, .. } => Some(keys.len()),
        DataRef::Utf8(BytesRef { offsets, .. }) | DataRef::Binary(BytesRef { offsets, .. }) => ends(offsets),
        DataRef::ListInt64 { offsets, .. }
        | DataRef::ListFloat64 { offsets, .. }
        | DataRef::ListUtf8 { offsets, .. } => ends(offsets),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_a_version_covers_it() {
        for (from, covered, not) in [
            ("1", &["1.0.0", "1.2.3", "1.2.3-rc.1"][..], &["2.0.0", "0.1.0", "11.0.0", ""][..]),
            ("1.x", &["1.0.0", "1.2.3+build"], &["2.1.0", "1"]),
            ("1.2.x", &["1.2.0", "1.2.9"], &["1.3.0", "1.20.0"]),
            ("1.2.3", &["1.2.3"], &["1.2.30", "1.2.4", "1.2"]),
            ("0.1", &["0.1.0", "0.1.7"], &["0.10.0", "1.0.0"]),
        ] {
            assert!(covered.iter().all(|version| covers(from, version)), "{from}");
            assert!(!not.iter().any(|version| covers(from, version)), "{from}");
        }
    }

    #[test]
    fn only_what_holds_every_value_is_wider() {
        use DataType as T;
        let decimal = |precision, scale| T::Decimal { precision, scale };
        let widens = |old, new| widens(&Field::new("a", old, false), &Field::new("a", new, false));
        for (old, new) in
            [(T::Int32, T::Int64), (T::Float32, T::Float64), (decimal(9, 2), decimal(18, 2)), (T::Utf8, T::Utf8)]
        {
            assert!(widens(old, new) && (old == new || !widens(new, old)), "{old} {new}");
        }
        for (old, new) in [
            (T::Int64, T::Float64),
            (T::Int32, T::Float64),
            (decimal(9, 2), decimal(18, 3)),
            (T::Timestamp, T::Timestamptz),
            (T::Utf8, T::Binary),
        ] {
            assert!(!widens(old, new), "{old} {new}");
        }
        let nullable = |old, new| super::widens(&Field::new("a", T::Utf8, old), &Field::new("a", T::Utf8, new));
        assert_eq!([nullable(false, true), nullable(true, true), nullable(true, false)], [true, true, false]);
    }
}
