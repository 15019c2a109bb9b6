//! Every rule of the pipeline file has a `.toml` in `tests/spec` and beside it the `.err` (or the `.ok`: the graph) that
//! `check` prints. `UPDATE_GOLDENS=1 cargo test -p millrace --test spec` writes them anew: read the diff.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use millrace::plugin::{Info, Signature, TransformSignature, Wanted};
use millrace::spec;
use millrace_core::schema::{DataType, Field, Schema};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec")
}

fn env(name: &str) -> Option<String> {
    match name {
        "PARALLELISM" => Some("2".into()),
        "WORD" => Some("lots".into()),
        "PASSWORD" => Some("hunter2".into()),
        _ => None,
    }
}

/// What the `campaign-metrics` plugin answers, and a second plugin with awkward columns.
fn open(name: &str, _: &spec::model::PluginSpec, config: &str, offered: &Schema) -> Result<Signature, String> {
    let wanted = |name: &str, data_type, nullable| Wanted {
        field: Field::new(name, data_type, nullable),
        dictionary: false,
        optional: false,
    };
    let field = Field::new;
    if name == "awkward" {
        return Ok(Signature {
            input: vec![wanted("user_id", DataType::String, false)],
            state: Schema::default(),
            output: Schema::new(vec![
                field("campaign_id", DataType::String, false),
                field("window_end", DataType::Timestamptz, false),
                field("users", DataType::ListString, false),
            ]),
            ordered: false,
        });
    }
    let config: serde_json::Value = serde_json::from_str(config).map_err(|error| error.to_string())?;
    match config.get("unique_users").map(|value| value.as_str()) {
        None | Some(Some("exact" | "hll")) => {}
        Some(_) => return Err("`unique_users` must be \"exact\" or \"hll\"".into()),
    }
    assert!(!offered.fields.is_empty());
    Ok(Signature {
        input: vec![
            wanted("event_type", DataType::String, false),
            wanted("user_id", DataType::String, false),
            wanted("revenue", DataType::Double, true),
            Wanted { field: field("bonus", DataType::Long, false), dictionary: false, optional: true },
        ],
        state: Schema::default(),
        output: Schema::new(vec![
            field("impressions", DataType::Long, false),
            field("revenue", DataType::Double, false),
            field("ctr", DataType::Double, true),
        ]),
        ordered: false,
    })
}

/// A transform plugin that splits `text` into `word` and `text`, and wants `lang` if there is one.
fn open_transform(
    name: &str,
    _: &spec::model::PluginSpec,
    config: &str,
    _: &Schema,
) -> Result<TransformSignature, String> {
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    if name == "touchpoints" {
        let wanted = |field| Wanted { field, dictionary: false, optional: false };
        return Ok(TransformSignature {
            input: vec![
                wanted(field("event_type", DataType::String, false)),
                wanted(field("platform", DataType::String, true)),
                wanted(field("revenue", DataType::Double, true)),
            ],
            output: Schema::new(vec![
                field("touch", DataType::String, false),
                field("weight", DataType::Double, false),
            ]),
        });
    }
    if name != "splitter" {
        return Err("it is an aggregation, and a transform wants a plugin of the world `transform-plugin`".into());
    }
    if config.contains("wrong") {
        return Err("`by` must be one character".into());
    }
    let wanted =
        |name: &str, optional| Wanted { field: Field::new(name, DataType::String, false), dictionary: false, optional };
    let string = |name: &str| Field::new(name, DataType::String, false);
    Ok(TransformSignature {
        input: vec![wanted("text", false), wanted("lang", true)],
        output: Schema::new(vec![string("word"), string("text")]),
    })
}

/// What `check` prints, and whether it was content.
fn check(path: &Path) -> (String, bool) {
    let loaded = match spec::load(path, &env) {
        Ok(loaded) => loaded,
        Err(wrong) => return (wrong.to_string(), false),
    };
    match spec::check_plugins(&loaded, &open, &open_transform) {
        Ok(mut resolved) => {
            let info = Info { name: "campaign-metrics".into(), version: "1.0.0".into(), config_schema: String::new() };
            resolved.plugins.insert("campaign-metrics".into(), info);
            let graph = spec::graph(&loaded, &resolved).replace(&folder().display().to_string(), "DIR");
            (format!("{}{graph}", loaded.warnings), true)
        }
        Err(wrong) => (wrong.to_string(), false),
    }
}

#[test]
fn goldens() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut differ = Vec::new();
    let mut seen = BTreeSet::new();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let (printed, content) = check(case);
        let (golden, other) = if content { ("ok", "err") } else { ("err", "ok") };
        let golden = case.with_extension(golden);
        if update {
            std::fs::write(&golden, &printed).unwrap();
            // a case that has changed sides leaves nothing behind
            let _ = std::fs::remove_file(case.with_extension(other));
        }
        match std::fs::read_to_string(&golden) {
            Ok(expected) if expected == printed => {}
            Ok(expected) => {
                differ.push(format!("{}\n--- golden\n{expected}\n+++ printed\n{printed}", golden.display()))
            }
            Err(_) => differ.push(format!("{} is missing; printed:\n{printed}", golden.display())),
        }
        seen.insert(golden);
    }
    for golden in cases.iter().filter(|path| path.extension().is_some_and(|e| e == "err" || e == "ok")) {
        if !seen.contains(golden) {
            differ.push(format!("{} belongs to no case", golden.display()));
        }
    }
    assert!(seen.len() >= 35, "only {} cases", seen.len());
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
}

/// The pipelines that are shipped, beside a plugin that stands for the real one.
#[test]
fn shipped_pipelines_have_no_errors() {
    let root = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines");
    let (pipelines, plugins) = (root.path().join("pipelines"), root.path().join("target/plugins"));
    std::fs::create_dir_all(&pipelines).unwrap();
    std::fs::create_dir_all(&plugins).unwrap();
    for plugin in ["campaign_metrics.wasm", "touchpoints.wasm"] {
        std::fs::write(plugins.join(plugin), "stands for a plugin").unwrap();
    }
    let mut count = 0;
    for entry in std::fs::read_dir(shipped).unwrap() {
        let from = entry.unwrap().path();
        let to = pipelines.join(from.file_name().unwrap());
        std::fs::copy(&from, &to).unwrap();
        let loaded = spec::load(&to, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        let resolved = spec::check_plugins(&loaded, &open, &open_transform).unwrap_or_else(|wrong| panic!("{wrong}"));
        let drawn = spec::graph(&loaded, &resolved);
        assert!(drawn.contains("  sink, iceberg lake.ads."), "{drawn}");
        let plugins = loaded.pipeline.plugins.values().map(|plugin| plugin.path.clone());
        for path in plugins.chain([loaded.pipeline.file.clone()]) {
            assert!(path.is_absolute() && !path.to_string_lossy().contains(".."), "{}", path.display());
        }
        count += 1;
    }
    assert_eq!(count, 8);
}

fn load_text(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<spec::Loaded, spec::Diagnostics> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipeline.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(dir.path().join("stub.wasm"), "").unwrap();
    spec::load(&path, env)
}

const SMALL: &str = r#"
[pipeline]
name = "small"
[sources.events]
type = "generator"
schema = "event"
rate = "${RATE:-unlimited}"
[schemas.event]
id = "string"
a = "int"
z = "long?"
b = { type = "double?", path = "x.y" }
[sinks.out]
type = "console"
inputs = ["events"]
"#;

#[test]
fn defaults_and_the_order_of_columns() {
    let loaded = load_text(SMALL, &|_| None).unwrap();
    let pipeline = &loaded.pipeline;
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(pipeline.checkpoint.interval_ms, 30_000);
    assert_eq!(
        pipeline.checkpoint.location,
        spec::model::Location::Local(pipeline.file.parent().unwrap().join("state/small"))
    );
    assert_eq!((pipeline.checkpoint.retain, pipeline.checkpoint.timeout_ms), (3, 600_000));
    assert_eq!(pipeline.state.memory_limit_bytes, 2 << 30);
    assert_eq!(pipeline.errors.consecutive_limit, 100);
    assert_eq!(pipeline.errors.captures, Some(pipeline.file.parent().unwrap().join("state/small/captures")));
    assert_eq!(pipeline.errors.on_error, spec::model::OnError::Fail);
    assert!(pipeline.parallelism >= 1);
    let source = &pipeline.sources[0].1;
    let columns: Vec<String> = source.output.fields.iter().map(ToString::to_string).collect();
    assert_eq!(columns, ["id: string", "a: int", "z: long?", "b: double?"]);
    assert_eq!(source.schema.paths[3], ["x", "y"]);
    assert_eq!(source.watermark.out_of_orderness_ms, 5_000);
    assert_eq!(source.watermark.idle_timeout_ms, Some(30_000));
    assert_eq!(source.watermark.max_future_ms, Some(86_400_000));
    assert_eq!(source.watermark.max_drift_ms, None);
}

#[test]
fn a_reference_may_stand_for_a_number() {
    let rate = |value: Option<&str>| {
        let value = value.map(str::to_owned);
        let loaded = load_text(SMALL, &move |_| value.clone());
        loaded.map(|loaded| match &loaded.pipeline.sources[0].1.connector {
            spec::model::ConnectorSpec::Generator(generator) => generator.rate,
            spec::model::ConnectorSpec::Kafka(_) => unreachable!(),
        })
    };
    assert_eq!(rate(None).unwrap(), None);
    assert_eq!(rate(Some("5000")).unwrap(), Some(5_000));
    assert_eq!(rate(Some("unlimited")).unwrap(), None);
    assert!(rate(Some("0")).is_err());
    assert!(rate(Some("fast")).is_err());
}

#[test]
fn secrets_are_in_the_pipeline_but_in_nothing_that_is_shown() {
    let text = SMALL.replace("type = \"console\"", "type = \"kafka\"\nbrokers = \"${secret:P}\"\ntopic = \"t\"");
    let loaded = load_text(&text, &|name| (name == "P").then(|| "hunter2".to_owned())).unwrap();
    assert_eq!(loaded.secrets, ["hunter2"]);
    let resolved = spec::check_plugins(&loaded, &open, &open_transform).unwrap();
    let graph = spec::graph(&loaded, &resolved);
    assert!(graph.contains("at [redacted]") && !graph.contains("hunter2"), "{graph}");
    let wrong = load_text(&text.replace("\"t\"", "\"${secret:P} \""), &|_| Some("hunter2".to_owned())).unwrap_err();
    assert!(wrong.to_string().contains("`[redacted] ` cannot be a topic's name"), "{wrong}");
    assert!(!wrong.to_json().to_string().contains("hunter2"));
}

#[test]
fn inputs_are_united_by_column_name() {
    let text = format!(
        "{}\n[sources.more]\ntype = \"generator\"\nschema = \"other\"\n[schemas.other]\na = \"long\"\nid = \"string\"\n",
        SMALL.replace("inputs = [\"events\"]", "inputs = [\"events\", \"more\"]")
    );
    let loaded = load_text(&text, &|_| None).unwrap();
    let resolved = spec::check_plugins(&loaded, &open, &open_transform).unwrap();
    let columns: Vec<String> = resolved.input["out"].fields.iter().map(ToString::to_string).collect();
    assert_eq!(columns, ["id: string", "a: long", "z: long?", "b: double?"]);
}

#[test]
fn findings_for_programs() {
    let wrong = load_text(&SMALL.replace("\"generator\"", "\"generater\""), &|_| None).unwrap_err();
    let json = wrong.to_json();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["line"], 5);
    assert_eq!(json[0]["column"], 8);
    assert_eq!(json[0]["file"], "pipeline.toml");
    assert_eq!(json[0]["hints"][0], "did you mean `generator`?");
}

#[test]
fn a_file_that_is_not_there() {
    let wrong = spec::load(Path::new("no/such.toml"), &|_| None).unwrap_err();
    assert!(wrong.to_string().starts_with("error: cannot read no/such.toml: "), "{wrong}");
}
