//! Columns along the edges of the graph: what each node reads and gives, and whether the two fit.
//!
//! Pure over schemas. Findings come with the key, below the node's table, that they concern.

use std::collections::BTreeMap;
use std::ops::Range;

use super::changelog::{CHANGE, REVISION};
use super::model::{AggregationSpec, PartitionField, PartitionTransform, SinkKind, SinkMode, SinkSpec, WindowSpec};
use super::suggest;
use crate::plugin::{Signature, Wanted, builtin};
use millrace_core::schema::{DataType, Field, Schema};

pub const WINDOW_START: &str = "window_start";
pub const WINDOW_END: &str = "window_end";

/// What is wrong with a node's columns.
pub struct Misfit {
    /// below the node's table; a key that the file lacks stands for the nearest above it
    pub keys: Vec<String>,
    pub message: String,
    pub hints: Vec<String>,
    /// bytes of the value, where it is a text of which only a part is wrong
    pub within: Option<Range<usize>>,
}

pub(super) fn misfit(keys: &[&str], message: String, hint: Option<String>) -> Misfit {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Misfit { keys, message, hints: hint.into_iter().collect(), within: None }
}

/// The fixed columns of every `.errors` and `.late`.
pub fn side_stream() -> Schema {
    Schema::new(vec![
        Field::new("node", DataType::String, false),
        Field::new("reason", DataType::String, false),
        Field::new("topic", DataType::String, true),
        Field::new("partition", DataType::Int, true),
        Field::new("offset", DataType::Long, true),
        Field::new("event_time", DataType::Timestamptz, true),
        Field::new("payload", DataType::Binary, true),
        Field::new("row", DataType::String, true),
    ])
}

pub fn is_side_stream(input: &str) -> bool {
    input.ends_with(".errors") || input.ends_with(".late")
}

/// Several inputs, united by column name: in the order of the first that has each; a column that one of them lacks is
/// nullable; int and long are united to long, float and double to double.
pub fn united(inputs: &[(&str, &Schema)]) -> Result<Schema, Misfit> {
    let mut fields: Vec<(Field, &str)> = Vec::new();
    for (index, (name, schema)) in inputs.iter().enumerate() {
        for field in &schema.fields {
            match fields.iter_mut().find(|(known, _)| known.name == field.name) {
                None => {
                    let nullable = field.nullable || index > 0;
                    fields.push((Field::new(field.name.as_str(), field.data_type, nullable), *name));
                }
                Some((known, first)) => {
                    known.nullable |= field.nullable;
                    if known.data_type.widens_to(field.data_type) {
                        known.data_type = field.data_type;
                    } else if !field.data_type.widens_to(known.data_type) {
                        return Err(misfit(
                            &["inputs", &index.to_string()],
                            format!(
                                "`{}` is `{}` in `{name}`, but `{}` in `{first}`",
                                field.name, field.data_type, known.data_type
                            ),
                            Some(
                                "inputs are united by column name: give the column one type, or read them in two nodes"
                                    .into(),
                            ),
                        ));
                    }
                }
            }
        }
        for (known, _) in &mut fields {
            known.nullable |= schema.field(&known.name).is_none();
        }
    }
    Ok(Schema::new(fields.into_iter().map(|(field, _)| field).collect()))
}

/// The columns that a plugin is offered: its own name for each, and the name in the input. A renamed column is offered
/// under its new name only.
pub fn offered<'a>(input: &'a Schema, columns: &'a BTreeMap<String, String>) -> Vec<(&'a str, &'a Field)> {
    let renamed = columns.iter().filter_map(|(plugin, column)| Some((plugin.as_str(), input.field(column)?)));
    let plain = input
        .fields
        .iter()
        .filter(|field| !columns.contains_key(&field.name) && !columns.values().any(|column| *column == field.name));
    let mut all: Vec<(&str, &Field)> = plain.map(|field| (field.name.as_str(), field)).collect();
    all.extend(renamed);
    all
}

/// The same as a schema, as `open` takes it.
pub fn offered_schema(input: &Schema, columns: &BTreeMap<String, String>) -> Schema {
    let fields = offered(input, columns);
    Schema::new(fields.into_iter().map(|(name, field)| Field::new(name, field.data_type, field.nullable)).collect())
}

/// Where each column that a plugin wants is found in the input; none: an optional one that it lacks.
pub fn wanted_columns<'a>(
    input: &'a Schema,
    columns: &'a BTreeMap<String, String>,
    wanted: &'a [Wanted],
) -> impl Iterator<Item = (Option<usize>, &'a Field)> {
    let offered = offered(input, columns);
    wanted.iter().map(move |wanted| {
        let found = offered.iter().find(|(name, _)| *name == wanted.field.name);
        (found.and_then(|(_, field)| input.index_of(&field.name)), &wanted.field)
    })
}

/// Key columns and renamed columns: needs no plugin.
pub fn check_aggregation(spec: &AggregationSpec, input: &Schema) -> Vec<Misfit> {
    let mut wrong = check_key(&["key"], &spec.key, input, &[WINDOW_START, WINDOW_END]);
    wrong.extend(check_renaming(&spec.columns, input));
    wrong
}

/// Columns by which rows are told apart. `own` are the names of columns that stand beside them.
pub(super) fn check_key(at: &[&str], key: &[String], input: &Schema, own: &[&str]) -> Vec<Misfit> {
    let mut wrong = Vec::new();
    for (index, name) in key.iter().enumerate() {
        let index_text = index.to_string();
        let keys: Vec<&str> = at.iter().copied().chain([index_text.as_str()]).collect();
        if key.iter().take(index).any(|earlier| earlier == name) {
            wrong.push(misfit(&keys, format!("`{name}` is in the key twice"), Some("take one out".into())));
        }
        match input.field(name) {
            None => wrong.push(misfit(&keys, format!("the input has no column `{name}`"), near(name, input))),
            Some(field) if !hashable(field.data_type) => wrong.push(misfit(
                &keys,
                format!("`{name}` is of type `{}` and cannot be a key", field.data_type),
                Some("equal floating-point values are no sure thing: use a string, an integer or a decimal".into()),
            )),
            Some(_) if own.contains(&name.as_str()) => wrong.push(misfit(
                &keys,
                format!("`{name}` is the name of a column that stands beside the key"),
                Some("rename the key's column: in the schema, or with a transform's `select`".into()),
            )),
            Some(_) => {}
        }
    }
    wrong
}

/// Renamed columns must be there.
pub(super) fn check_renaming(columns: &BTreeMap<String, String>, input: &Schema) -> Vec<Misfit> {
    let mut wrong = Vec::new();
    for (plugin, column) in columns {
        if input.field(column).is_none() {
            wrong.push(misfit(
                &["columns", plugin],
                format!("the input has no column `{column}`"),
                near(column, input),
            ));
        }
    }
    wrong
}

fn hashable(data_type: DataType) -> bool {
    !matches!(
        data_type,
        DataType::Float | DataType::Double | DataType::ListLong | DataType::ListDouble | DataType::ListString
    )
}

pub(super) fn near(name: &str, schema: &Schema) -> Option<String> {
    suggest::did_you_mean(name, schema.fields.iter().map(|field| field.name.as_str()))
}

/// What the plugin wants against what the input has, then the columns of the result (none if they clash).
pub fn check_signature(spec: &AggregationSpec, input: &Schema, signature: &Signature) -> (Option<Schema>, Vec<Misfit>) {
    let reader = Reader { plugin: &spec.plugin, columns: &spec.columns };
    let mut wrong = check_input(&reader, &signature.input, input, |_| false);

    let keys = spec.key.iter().filter_map(|name| input.field(name).cloned());
    let mut output: Vec<Field> = keys.collect();
    let endless = spec.window == WindowSpec::Global;
    output.push(Field::new(WINDOW_START, DataType::Timestamptz, endless));
    output.push(Field::new(WINDOW_END, DataType::Timestamptz, endless));
    let unfit = wrong.len();
    for field in &signature.output.fields {
        let twice = output.iter().any(|known| known.name == field.name);
        if twice && !spec.aggregates.is_empty() {
            wrong.push(misfit(
                &["aggregate", &field.name],
                format!("the result would have two columns `{}`", field.name),
                Some(
                    "the result is the key columns, `window_start`, `window_end`, then the aggregates: rename this one"
                        .into(),
                ),
            ));
        } else if twice {
            wrong.push(misfit(
                &["plugin"],
                format!("the result would have two columns `{}`: plugin `{}` gives one, too", field.name, spec.plugin),
                Some("the result is the key columns, `window_start`, `window_end`, then the plugin's: rename the plugin's".into()),
            ));
        }
        wrong.extend(check_no_list(&spec.plugin, field));
        output.push(field.clone());
    }
    let output = (wrong.len() == unfit).then(|| Schema::new(output));
    (output, wrong)
}

/// An aggregate that does not fit the input.
pub fn aggregate_misfit(wrong: builtin::Wrong) -> Misfit {
    misfit(&["aggregate", &wrong.name], wrong.message, wrong.hint)
}

/// Lists never become columns.
pub(super) fn check_no_list(plugin: &str, field: &Field) -> Option<Misfit> {
    let is_list = matches!(field.data_type, DataType::ListLong | DataType::ListDouble | DataType::ListString);
    is_list.then(|| {
        misfit(
            &["plugin"],
            format!("plugin `{plugin}` gives `{field}`: a result cannot hold lists"),
            Some("lists are for a plugin's state; give a string or several columns".into()),
        )
    })
}

/// A node's plugin, by its name in the file, and how the node renames columns for it.
pub(super) struct Reader<'a> {
    pub plugin: &'a str,
    pub columns: &'a BTreeMap<String, String>,
}

/// What a plugin wants against what the input has. `gives`: names that the plugin has a column of its own for.
pub(super) fn check_input(
    reader: &Reader<'_>,
    wanted: &[Wanted],
    input: &Schema,
    gives: impl Fn(&str) -> bool,
) -> Vec<Misfit> {
    let offered = offered(input, reader.columns);
    let mut wrong: Vec<Misfit> = wanted.iter().filter_map(|wanted| check_wanted(reader, wanted, &offered)).collect();
    for name in reader.columns.keys() {
        if !wanted.iter().any(|wanted| wanted.field.name == *name) && !gives(name) {
            let hint = suggest::did_you_mean(name, wanted.iter().map(|wanted| wanted.field.name.as_str()));
            let message = format!("plugin `{}` reads no column `{name}`", reader.plugin);
            wrong.push(misfit(&["columns", name], message, hint));
        }
    }
    wrong
}

fn check_wanted(spec: &Reader<'_>, wanted: &Wanted, offered: &[(&str, &Field)]) -> Option<Misfit> {
    let Field { name, data_type, nullable } = &wanted.field;
    let keys = ["columns", name.as_str()];
    let keys: &[&str] = if spec.columns.contains_key(name) { &keys } else { &["plugin"] };
    let Some((_, field)) = offered.iter().find(|(offered, _)| offered == name) else {
        if wanted.optional {
            return None;
        }
        let columns: Vec<&str> = offered.iter().map(|(name, _)| *name).collect();
        let mut wrong = misfit(
            keys,
            format!("plugin `{}` wants a column `{}`, and the input has none", spec.plugin, wanted.field),
            suggest::did_you_mean(name, columns.iter().copied()),
        );
        let example = suggest::closest(name, columns.iter().copied()).unwrap_or("…");
        wrong.hints.push(format!("if it has another name here: `columns = {{ {name} = \"{example}\" }}`"));
        return Some(wrong);
    };
    let column = &field.name;
    if !field.data_type.widens_to(*data_type) {
        return Some(misfit(
            keys,
            format!("plugin `{}` wants `{}`, and the input has `{field}`", spec.plugin, wanted.field),
            Some(format!(
                "only int → long and float → double happen by themselves; write `cast({column} AS {data_type})` upstream, or \
                 declare the column as `{data_type}` in the source's schema"
            )),
        ));
    }
    if field.nullable && !nullable && !wanted.optional {
        return Some(misfit(
            keys,
            format!("plugin `{}` wants `{}` without nulls, and the input has `{field}`", spec.plugin, wanted.field),
            Some(format!(
                "write `coalesce({column}, {})` upstream, or declare the column as `{}` in the source's schema",
                zero(field.data_type),
                field.data_type
            )),
        ));
    }
    None
}

/// A value to put in the place of null, for hints.
fn zero(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "false",
        DataType::Int | DataType::Long => "0",
        DataType::Float | DataType::Double | DataType::Decimal { .. } => "0.0",
        DataType::Date => "date '1970-01-01'",
        DataType::Timestamp | DataType::Timestamptz => "timestamp '1970-01-01T00:00:00Z'",
        _ => "''",
    }
}

/// The columns that a sink's own keys name.
pub fn check_sink(spec: &SinkSpec, input: &Schema) -> Vec<Misfit> {
    match &spec.kind {
        // every type of a column is one of Iceberg's; lists have been refused where an aggregation gives them
        SinkKind::Iceberg(iceberg) => {
            let by = iceberg.partition_by.iter().enumerate();
            let mut wrong: Vec<Misfit> = by
                .filter_map(|(index, field)| check_partition(&["partition_by", &index.to_string()], field, input))
                .collect();
            match &iceberg.mode {
                SinkMode::Upsert { key } => wrong.extend(check_key(&["key"], key, input, &[])),
                SinkMode::Append { revision } => wrong.extend(check_revision(*revision, input)),
            }
            wrong
        }
        SinkKind::Kafka(kafka) => {
            let mut wrong = check_revision(kafka.revision, input);
            if let Some(key) = kafka.key.as_ref().filter(|key| input.field(key).is_none()) {
                wrong.push(misfit(&["key"], format!("the input has no column `{key}`"), near(key, input)));
            }
            wrong
        }
        SinkKind::File(file) => check_revision(file.revision, input),
        SinkKind::Console => Vec::new(),
    }
}

/// The two columns that are added must not be there.
fn check_revision(revision: bool, input: &Schema) -> Vec<Misfit> {
    let clashes = [REVISION, CHANGE].into_iter().filter(|name| revision && input.field(name).is_some());
    let clashes = clashes.map(|name| {
        misfit(
            &["revision"],
            format!("`revision = true` adds a column `{name}`, and the input has one"),
            Some("rename the input's with a transform's `select`".into()),
        )
    });
    clashes.collect()
}

/// Iceberg's table of which transform takes which type (spec, "Partition Transforms").
fn check_partition(keys: &[&str], field: &PartitionField, input: &Schema) -> Option<Misfit> {
    use DataType::{Boolean, Date, Double, Float, Timestamp, Timestamptz};
    let Some(column) = input.field(&field.column) else {
        return Some(misfit(keys, format!("the input has no column `{}`", field.column), near(&field.column, input)));
    };
    let data_type = column.data_type;
    let (fits, wanted) = match field.transform {
        PartitionTransform::Identity => (!matches!(data_type, Float | Double), "any type but float and double"),
        PartitionTransform::Bucket(_) => {
            (!matches!(data_type, Float | Double | Boolean), "any type but float, double and boolean")
        }
        PartitionTransform::Truncate(_) => (
            !matches!(data_type, Float | Double | Boolean | Date | Timestamp | Timestamptz),
            "string, binary, int, long or decimal",
        ),
        PartitionTransform::Year | PartitionTransform::Month | PartitionTransform::Day => {
            (matches!(data_type, Date | Timestamp | Timestamptz), "date, timestamp or timestamptz")
        }
        PartitionTransform::Hour => (matches!(data_type, Timestamp | Timestamptz), "timestamp or timestamptz"),
    };
    if !fits {
        let message = format!("`{}` is of type `{data_type}`, which this transform cannot take", field.column);
        return Some(misfit(keys, message, Some(format!("it takes {wanted}"))));
    }
    // Iceberg names the partition's field after the column; only identity may share a column's name
    let suffix = match field.transform {
        PartitionTransform::Identity => return None,
        PartitionTransform::Bucket(_) => "bucket",
        PartitionTransform::Truncate(_) => "trunc",
        PartitionTransform::Year => "year",
        PartitionTransform::Month => "month",
        PartitionTransform::Day => "day",
        PartitionTransform::Hour => "hour",
    };
    let name = format!("{}_{suffix}", field.column);
    input.field(&name).map(|_| {
        misfit(
            keys,
            format!("the partition would be named `{name}`, and so is a column"),
            Some("rename the column".into()),
        )
    })
}
