//! `[sinks.NAME]`: where rows go.

use super::{Known, inputs, partition, properties, reference, source};
use crate::spec::cursor::{Cursor, Word};
use crate::spec::model::{
    Evolve, FileFormat, FileSinkSpec, IcebergSinkSpec, KafkaSinkSpec, OnError, SinkKind, SinkMode, SinkSpec,
};
use crate::spec::{paths, units};

const YEAR_MS: u64 = 366 * 86_400_000;

#[derive(Clone, Copy)]
enum Kind {
    Iceberg,
    Kafka,
    File,
    Console,
}

/// Its inputs, and the sink if all of it is right.
pub fn read(c: &Cursor<'_>, known: &Known<'_>) -> (Vec<String>, Option<SinkSpec>) {
    let inputs = inputs(c);
    let names = inputs.clone().unwrap_or_default();
    let kinds = [
        ("iceberg", Word::Now(Kind::Iceberg)),
        ("kafka", Word::Now(Kind::Kafka)),
        ("file", Word::Now(Kind::File)),
        ("console", Word::Now(Kind::Console)),
    ];
    let Some(kind) = c.required("type", |c, key| c.choice(key, &kinds)) else {
        c.skip_rest();
        return (names, None);
    };
    // every node may set it; a sink has nothing to hand on yet
    let on_error = [("fail", Word::Now(OnError::Fail)), ("dead-letter", Word::Later), ("skip", Word::Later)];
    c.choice("on_error", &on_error);
    c.integer::<u64>("consecutive_limit", 1..=i64::MAX);
    let kind = match kind {
        Kind::Iceberg => iceberg(c, known).map(SinkKind::Iceberg),
        Kind::Kafka => kafka(c).map(SinkKind::Kafka),
        Kind::File => file(c).map(SinkKind::File),
        Kind::Console => Some(SinkKind::Console),
    };
    c.finish();
    let spec = inputs.zip(kind).map(|(inputs, kind)| SinkSpec { inputs, kind });
    (names, spec)
}

fn iceberg(c: &Cursor<'_>, known: &Known<'_>) -> Option<IcebergSinkSpec> {
    let catalog = reference(c, "catalog", "catalog", known.catalogs);
    let table = c.required("table", Cursor::string).and_then(|name| table(c, &name));
    let partition_by = partition::read(c);
    let mode = mode(c);
    let evolve = [("fail", Word::Now(Evolve::Fail)), ("add-columns", Word::Now(Evolve::AddColumns))];
    let evolve = c.choice("evolve", &evolve).unwrap_or(Evolve::Fail);
    let interval_ms = known.head.checkpoint.interval_ms;
    let commit_interval_ms = match c.duration_ms("commit_interval", 1..=YEAR_MS) {
        Some(ms) if ms % interval_ms != 0 => {
            let near = ms.div_ceil(interval_ms).saturating_mul(interval_ms);
            c.wrong(
                &["commit_interval"],
                format!(
                    "`commit_interval` is not a multiple of the checkpoint's interval, {}",
                    units::show_duration_ms(interval_ms)
                ),
                format!("commits happen at checkpoints: \"{}\" is the next that fits", units::show_duration_ms(near)),
            );
            ms
        }
        Some(ms) => ms,
        None => interval_ms,
    };
    let properties = properties::iceberg(c);
    c.later(&["maintenance"]);
    let (namespace, table) = table?;
    Some(IcebergSinkSpec {
        catalog: catalog?,
        namespace,
        table,
        partition_by: partition_by?,
        evolve,
        mode: mode?,
        commit_interval_ms,
        properties,
    })
}

fn mode(c: &Cursor<'_>) -> Option<SinkMode> {
    let upsert = match c.choice("mode", &[("append", Word::Now(false)), ("upsert", Word::Now(true))]) {
        None if c.has("mode") => {
            c.skip(&["key", "revision"]);
            return None;
        }
        word => word.unwrap_or(false),
    };
    let revision = c.boolean("revision");
    if !upsert {
        if c.has("key") {
            c.skip(&["key"]);
            c.wrong(
                &["key"],
                "only an upsert has a `key`",
                "take `key` out: this sink appends; or write `mode = \"upsert\"`",
            );
        }
        return Some(SinkMode::Append { revision: revision.unwrap_or(false) });
    }
    if c.has("revision") {
        c.wrong(&["revision"], "an upsert keeps the last revision of a row only", "take `revision` out, or append");
    }
    let key = c.required("key", Cursor::strings)?;
    if key.is_empty() {
        c.wrong(&["key"], "an upsert needs a key", "name the aggregation's key columns and `window_start`");
        return None;
    }
    Some(SinkMode::Upsert { key })
}

/// `"ads.campaign_metrics"` → namespace and table.
fn table(c: &Cursor<'_>, name: &str) -> Option<(String, String)> {
    let right =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [namespace, table] if right(namespace) && right(table) => Some(((*namespace).to_owned(), (*table).to_owned())),
        [one] if right(one) => {
            c.wrong(&["table"], format!("`{name}` has no namespace"), format!("write `table = \"default.{name}\"`"));
            None
        }
        [_, _, _, ..] if parts.iter().all(|part| right(part)) => {
            c.wrong(
                &["table"],
                "a namespace of several levels is not supported yet",
                "write `table = \"namespace.table\"`",
            );
            None
        }
        _ => {
            c.wrong(
                &["table"],
                format!("`{name}` cannot be a table's name"),
                "write `namespace.table`, both made of A-Z, a-z, 0-9, `_` and `-`",
            );
            None
        }
    }
}

fn kafka(c: &Cursor<'_>) -> Option<KafkaSinkSpec> {
    let brokers = c.required("brokers", Cursor::string);
    let topic = c.required("topic", Cursor::string);
    if let Some(topic) = &topic {
        source::check_topic(c, &["topic"], topic);
    }
    let key = c.string("key");
    c.choice("format", &[("json", Word::Now(())), ("avro", Word::Later), ("protobuf", Word::Later)]);
    c.choice("guarantee", &[("at-least-once", Word::Now(())), ("exactly-once", Word::Later)]);
    let properties = properties::kafka(c);
    let revision = c.boolean("revision").unwrap_or(false);
    Some(KafkaSinkSpec { brokers: brokers?, topic: topic?, key, revision, properties })
}

fn file(c: &Cursor<'_>) -> Option<FileSinkSpec> {
    let path = c.required("path", Cursor::string);
    let path = path.and_then(|path| match paths::scheme(&path) {
        None => Some(paths::absolute(&c.doc.dir, &path)),
        Some(scheme) => {
            c.wrong(&["path"], format!("`{scheme}:` is not supported by file sinks"), "name a folder");
            None
        }
    });
    let formats = [("jsonl", Word::Now(FileFormat::Jsonl)), ("parquet", Word::Now(FileFormat::Parquet))];
    let format = c.choice("format", &formats).unwrap_or(FileFormat::Jsonl);
    let revision = c.boolean("revision").unwrap_or(false);
    Some(FileSinkSpec { path: path?, format, revision })
}
