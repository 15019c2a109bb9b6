//! How many files a partitioned sink will write at each commit: an estimate, from what the file says of its columns.

use super::model::{ConnectorSpec, PartitionField, PartitionTransform, Pipeline, SinkKind, SinkSpec};

/// Above this `check` warns: every file costs an open writer, a request and an entry in a manifest.
pub const FILES_PER_COMMIT_MAX: u64 = 100;
/// What `identity` of a column that names things (a key, `…_id`) is assumed to have: campaigns, users, devices.
const VALUES_OF_A_KEY: u64 = 1_000;
/// What `identity` of any other column is assumed to have: platforms, countries of one region, kinds.
const VALUES_OF_A_COLUMN: u64 = 5;
const BUCKETS_SUGGESTED: u32 = 16;

/// Files expected per commit, and the column that has the largest share in it.
pub struct Expected {
    pub files: u64,
    pub widest: Option<PartitionField>,
}

pub fn expected(pipeline: &Pipeline, sink: &SinkSpec) -> Option<Expected> {
    let SinkKind::Iceberg(iceberg) = &sink.kind else { return None };
    if iceberg.partition_by.is_empty() {
        return None;
    }
    let counted: Vec<(u64, &PartitionField)> =
        iceberg.partition_by.iter().map(|field| (values(pipeline, sink, field), field)).collect();
    let files = counted.iter().fold(1_u64, |files, (values, _)| files.saturating_mul(*values));
    let widest = counted.iter().max_by_key(|(values, _)| *values).map(|(_, field)| (*field).clone());
    Some(Expected { files, widest })
}

/// The warning and its hint, if there are too many.
pub fn warning(expected: &Expected) -> Option<(String, String)> {
    if expected.files <= FILES_PER_COMMIT_MAX {
        return None;
    }
    let widest = expected.widest.as_ref()?;
    let message = format!(
        "about {} files at each commit are expected, and more than {FILES_PER_COMMIT_MAX} are slow to write and to read",
        expected.files
    );
    let hint = match widest.transform {
        PartitionTransform::Bucket(_) => format!("fewer buckets: `bucket({BUCKETS_SUGGESTED}, {})`", widest.column),
        _ => format!(
            "`bucket({BUCKETS_SUGGESTED}, {})` keeps the pruning by `{}` with {BUCKETS_SUGGESTED} partitions; a longer \
             `commit_interval` makes larger files",
            widest.column, widest.column
        ),
    };
    Some((message, hint))
}

fn values(pipeline: &Pipeline, sink: &SinkSpec, field: &PartitionField) -> u64 {
    let column = field.column.as_str();
    let distinct = || {
        let generated = sink.inputs.iter().find_map(|input| match &source(pipeline, input)?.connector {
            ConnectorSpec::Generator(generator) if column == "campaign_id" => Some(u64::from(generator.campaigns)),
            ConnectorSpec::Generator(generator) if column == "user_id" => Some(u64::from(generator.users)),
            _ => None,
        });
        let is_key = pipeline.aggregations.iter().any(|(_, spec)| spec.key.iter().any(|key| key == column));
        let names_things = is_key || column == "id" || column.ends_with("_id");
        generated.unwrap_or(if names_things { VALUES_OF_A_KEY } else { VALUES_OF_A_COLUMN })
    };
    match field.transform {
        PartitionTransform::Identity => distinct(),
        PartitionTransform::Truncate(_) => distinct(),
        PartitionTransform::Bucket(buckets) => u64::from(buckets).min(distinct().max(VALUES_OF_A_COLUMN)),
        // rows of one commit are close in time
        PartitionTransform::Year | PartitionTransform::Month | PartitionTransform::Day | PartitionTransform::Hour => 1,
    }
}

/// The source that a stream comes from, straight or through operators.
fn source<'a>(pipeline: &'a Pipeline, input: &str) -> Option<&'a super::model::SourceSpec> {
    let upstream = pipeline.upstream(input);
    pipeline.sources.iter().find(|(name, _)| upstream.contains(&name.as_str())).map(|(_, spec)| spec)
}
