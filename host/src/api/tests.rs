//! The API over real sockets, on a run whose tasks have published what a test says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use millrace_core::batch::Origin;
use millrace_core::watermark::{InputWatermarks, Watermark};
use serde_json::Value;

use super::model::{Explanation, PartitionState, Reason};
use super::*;
use crate::runtime::monitor::Known;
use crate::runtime::source_task::PartitionProgress;
use crate::runtime::status::{DriftWait, OperatorStatus, PartitionReport, SourceStatus, WindowReport};
use crate::source::PartitionId;

/// 2026-01-31T12:06:40Z
const NOW: i64 = 1_769_861_200_000;
/// 11:58:02
const SLOW: i64 = NOW - 518_000;

const PIPELINE: &str = r#"
[pipeline]
name = "billing"
parallelism = 1

[sources.events]
type = "generator"
schema = "event"
event_time = "at"
watermark = { out_of_orderness = "5s", idle_timeout = "30s", max_drift = "1m" }

[schemas.event]
campaign = "string"
at = "timestamptz"

[transforms.valid]
inputs = ["events"]
filter = "campaign <> ''"

[aggregations.metrics]
inputs = ["valid"]
key = ["campaign"]
window = { type = "tumbling", size = "5m" }
aggregate = { events = "count(*)" }

[sinks.out]
type = "console"
inputs = ["metrics"]
"#;

#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now_ms(&self) -> i64 {
        self.0
    }
}

struct Fake {
    stats: Arc<RunStats>,
    operator: Arc<OperatorStatus>,
    partitions: Vec<Arc<PartitionProgress>>,
}

impl Fake {
    fn steady(&self) -> i64 {
        self.stats.status.now_ms()
    }

    fn partition(&self, number: usize, position: i64, end: i64, report: PartitionReport) {
        let progress = &self.partitions[number];
        progress.position.store(position, Relaxed);
        progress.end.store(end, Relaxed);
        progress.end_answered_ms.store(self.steady(), Relaxed);
        progress.publish(report);
    }

    /// At work: read a moment ago, caught up, at this event time.
    fn well(&self, number: usize, watermark_ms: i64) {
        self.partition(number, 10, 10, self.read_at(watermark_ms));
    }

    fn read_at(&self, watermark_ms: i64) -> PartitionReport {
        PartitionReport {
            watermark_ms: Some(watermark_ms),
            newest_event_ms: Some(watermark_ms + 5_001),
            stands_since_at_ms: self.steady(),
            last_message_at_ms: Some(self.steady()),
            messages_total: 10,
            ..PartitionReport::default()
        }
    }

    fn operator_at(&self, watermark_ms: i64) {
        let mut inputs = InputWatermarks::new(1, None);
        inputs.update(0, Watermark { time_ms: Some(watermark_ms), idle: false });
        self.operator.watermark(&inputs);
    }
}

/// Two partitions; the window 12:00–12:05 is open.
fn fake() -> (Running, Fake) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("billing.toml");
    std::fs::write(&file, PIPELINE).unwrap();
    let pipeline = crate::spec::load(&file, &|_| None).unwrap_or_else(|e| panic!("{}", e.render(false))).pipeline;
    let stats = Arc::new(RunStats::new(["events", "valid", "metrics", "out"].map(Arc::from)));
    let partitions: Vec<Arc<PartitionProgress>> = (0..2).map(|_| Arc::default()).collect();
    let known: BTreeMap<_, _> = (0..)
        .zip(&partitions)
        .map(|(partition, progress)| {
            let id = PartitionId { topic: "ads".into(), partition };
            (id, Known { topic_id: None, progress: Arc::clone(progress) })
        })
        .collect();
    let watermark = pipeline.sources[0].1.watermark;
    stats.status.source(&"events".into(), SourceStatus { watermark, partitions: Arc::new(Mutex::new(known)) });
    let operator = stats.status.operator(&"metrics".into(), vec!["valid".into()], None);
    operator.windows(WindowReport {
        open: 2,
        closed: 1,
        oldest_open: Some((NOW - 400_000, NOW - 100_000)),
        groups: 7,
        state_bytes: 1_000,
        corrections_waiting: 3,
    });
    let fence = Fence { incarnation: "i".into(), generation: 4 };
    let running = Running {
        pipeline,
        fence,
        stats: Arc::clone(&stats),
        clock: Arc::new(At(NOW)),
        started_at_ms: 1,
        control: None,
    };
    (running, Fake { stats, operator, partitions })
}

fn explained(running: &Running) -> Explanation {
    explain::explain(running)
}

#[test]
fn the_answer_names_the_partition_and_why_it_does_not_go_on() {
    let (running, fake) = fake();
    fake.well(1, NOW);
    fake.operator_at(SLOW);

    let slow = fake.read_at(SLOW);
    fake.partition(0, 100, 1_200_100, slow);
    let e = explained(&running);
    assert_eq!(
        e.answer,
        "metrics: the window 12:00–12:05 is open because partition ads/0 of `events` stands at 11:58:02: backlog of \
         1.20M messages (position 100 of 1200100)"
    );
    let metrics = &e.operators[0];
    let held = metrics.held_by.as_ref().unwrap();
    assert_eq!((held.reason, held.partition.as_ref().unwrap().partition), (Reason::Backlog, 0));
    let oldest = metrics.windows.oldest_open.as_ref().unwrap();
    assert_eq!(oldest.missing_ms, Some(NOW - 100_000 - 1 - SLOW));
    assert_eq!(metrics.inputs[0].node, "valid");

    // silent, but not for long enough
    let ago = |ms: i64| Some(fake.steady() - ms);
    fake.partition(0, 10, 10, PartitionReport { last_message_at_ms: ago(14_000), ..slow });
    let e = explained(&running);
    assert_eq!(e.operators[0].held_by.as_ref().unwrap().reason, Reason::Silent);
    assert!(
        e.answer.ends_with("caught up, silent for 14 s; it no longer counts after 30 s (idle_timeout)"),
        "{}",
        e.answer
    );

    // nobody answers
    fake.partitions[0].end_answered_ms.store(fake.steady() - 45_000, Relaxed);
    let e = explained(&running);
    assert_eq!(e.operators[0].held_by.as_ref().unwrap().reason, Reason::NoAnswer);
    assert!(e.answer.contains("no broker has answered for 45 s"), "{}", e.answer);

    // everything is dated too far ahead
    let future = PartitionReport { watermark_ms: None, future_total: 10, failed_total: 10, ..slow };
    fake.partition(0, 10, 10, future);
    let e = explained(&running);
    assert_eq!(e.operators[0].held_by.as_ref().unwrap().reason, Reason::FutureGuard);
    assert!(e.answer.contains("has not begun: all 10 messages that came are dated beyond max_future"), "{}", e.answer);

    // no event at all
    fake.partition(0, 0, 0, PartitionReport::default());
    assert_eq!(explained(&running).operators[0].held_by.as_ref().unwrap().reason, Reason::NoEvent);

    // the catalog is behind
    fake.stats.status.paused.store(true, Relaxed);
    let e = explained(&running);
    assert_eq!(e.operators[0].held_by.as_ref().unwrap().reason, Reason::IntakePaused);
}

#[test]
fn what_does_not_count_does_not_hold() {
    let (running, fake) = fake();
    fake.operator_at(NOW - 200_000);
    fake.well(1, NOW - 200_000);
    let steady = fake.steady();
    let slow = fake.read_at(SLOW);
    for (report, state) in [
        (PartitionReport { idle: true, ..slow }, PartitionState::Idle),
        (PartitionReport { done: true, ..slow }, PartitionState::Done),
        (PartitionReport { waits_for_first_event: true, ..slow }, PartitionState::WaitsForFirstEvent),
    ] {
        fake.partition(0, 10, 10, report);
        let e = explained(&running);
        assert_eq!(e.sources[0].partitions[0].state, state);
        assert_eq!(e.operators[0].held_by.as_ref().unwrap().partition.as_ref().unwrap().partition, 1);
        assert_eq!(e.sources[0].watermark_ms, Some(NOW - 200_000));
    }
    let ahead = PartitionReport {
        watermark_ms: Some(NOW),
        drift: Some(DriftWait { since_at_ms: steady - 7_000, slowest_ms: Some(NOW - 200_000) }),
        ..slow
    };
    fake.partition(0, 10, 90, ahead);
    let e = explained(&running);
    let p = &e.sources[0].partitions[0];
    assert_eq!(p.state, PartitionState::HeldByDrift);
    assert_eq!(p.drift.as_ref().unwrap().ahead_ms, Some(200_000));
    assert_eq!(p.because, "not read on, because it is 3 min 20 s ahead of the slowest, at 12:03:20 (max_drift 1 min)");

    let idle = PartitionReport { idle: true, last_message_at_ms: Some(steady - 60_000), ..slow };
    fake.partition(0, 10, 10, idle);
    fake.partition(1, 10, 10, idle);
    let e = explained(&running);
    assert!(e.operators[0].held_by.is_none());
    assert!(
        e.answer.contains("all partitions of `events` are idle, silent for 1 min; the watermark holds"),
        "{}",
        e.answer
    );

    // what the sources have told is not there yet
    fake.well(0, NOW);
    fake.well(1, NOW);
    let e = explained(&running);
    assert_eq!(e.operators[0].held_by.as_ref().unwrap().reason, Reason::OnTheWay);
}

#[test]
fn late_events_are_told_by_partition() {
    let (running, fake) = fake();
    fake.well(0, NOW);
    let origin = |partition| Origin { source: "events".into(), topic: "ads".into(), partition, offsets: [].into() };
    fake.stats.node("metrics").late_total.store(12, Relaxed);
    fake.operator.late(&origin(1), 5);
    fake.operator.late(&origin(0), 4);
    fake.operator.late(&origin(1), 3);
    let e = explained(&running);
    let late: Vec<_> = e.operators[0].late.iter().map(|l| (l.partition, l.events)).collect();
    assert_eq!(late, [(0, 4), (1, 8)]);
    let text = e.text();
    assert!(text.contains("late       12 events: 4 from ads/0 of `events`, 8 from ads/1 of `events`"), "{text}");
}

fn serve(token: Option<&str>) -> (Api, Fake) {
    let (running, fake) = fake();
    fake.well(0, NOW);
    fake.partition(1, 5, 9, fake.read_at(SLOW));
    let token = token.map(|t| Token::new(t).unwrap());
    let bound = bind(Some("127.0.0.1:0".parse().unwrap()), token).unwrap();
    (bound.serve(running).unwrap(), fake)
}

fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.url.strip_prefix("http://").unwrap()).unwrap()
}

fn raw(api: &Api, request: &[u8]) -> (u16, String) {
    let mut stream = connect(api);
    // whoever is cut off may find out while writing
    let _ = stream.write_all(request);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let status = answer.get(9..12).map_or(0, |s| s.parse().unwrap());
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

fn get(api: &Api, path: &str, headers: &str) -> (u16, String) {
    raw(api, format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\n{headers}\r\n").as_bytes())
}

#[test]
fn every_route_is_in_the_openapi_document_and_answers_as_it_says() {
    let (api, _fake) = serve(None);
    let (_, document) = get(&api, "/api/v1/openapi.json", "");
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut described: Vec<(&str, String)> = document["paths"].as_object().unwrap().iter().map(methods).collect();
    let mut routes: Vec<(&str, String)> = routes::templates()
        .into_iter()
        .map(|(t, methods)| (t, methods.split(", ").next().unwrap().to_owned()))
        .collect();
    described.sort_unstable();
    routes.sort_unstable();
    assert_eq!(described, routes);
    for (template, method) in routes {
        let path = template.replace("{name}", "billing").replace("{operator}", "metrics").replace("{id}", "1");
        if method == "GET" && template.ends_with("{id}") {
            assert_eq!(get(&api, &path, "").0, 404);
        } else if method == "GET" {
            let (status, body) = get(&api, &path, "");
            assert_eq!(status, 200, "{path}: {body}");
            let content = &document["paths"][template]["get"]["responses"]["200"]["content"];
            if let Some(schema) = content.get("application/json") {
                let body: Value = serde_json::from_str(&body).unwrap();
                conforms(&document, &schema["schema"], &body, &path);
            }
        }
        let (status, body) = raw(&api, format!("DELETE {path} HTTP/1.1\r\n\r\n").as_bytes());
        let body: Value = serde_json::from_str(&body).unwrap();
        conforms(&document, &document["components"]["schemas"]["Failure"], &body, &path);
        assert_eq!(status, 405);
    }
    for path in [
        "/api/v1/pipelines/other",
        "/api/v1/pipelines/billing/operators/events",
        "/api/v2",
        "/api/v1/pipelines//explain",
    ] {
        assert_eq!(get(&api, path, "").0, 404, "{path}");
    }
}

/// What the document says of a path: its methods in capitals.
fn methods<'a>((path, operations): (&'a String, &Value)) -> (&'a str, String) {
    let verbs = ["get", "put", "post", "delete", "patch", "options", "trace"];
    let said: Vec<String> = verbs.iter().filter(|v| operations.get(v).is_some()).map(|v| v.to_uppercase()).collect();
    (path, said.join(", "))
}

/// As much of JSON Schema as the document uses.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{name} is not there"));
        return conforms(document, schema, value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return if value.is_null() {
            assert!(choices[1]["type"] == "null")
        } else {
            conforms(document, &choices[0], value, at)
        };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = &schema["type"];
    let fits = allowed == kind
        || (kind == "integer" && allowed == "number")
        || allowed.as_array().is_some_and(|all| all.iter().any(|a| a == kind));
    assert!(fits, "{at}: {value} is no {allowed}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(document, &schema["items"], item, &format!("{at}[{number}]"));
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        let (said, given): (Vec<_>, Vec<_>) = (properties.keys().collect(), object.keys().collect());
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(given.iter().all(|name| said.contains(name)), "{at}: {given:?}");
        assert!(required.iter().all(|name| given.iter().any(|g| g == name)), "{at}: {given:?}");
        for (name, property) in properties {
            if let Some(value) = object.get(name) {
                conforms(document, property, value, &format!("{at}.{name}"));
            }
        }
    }
}

#[test]
fn without_a_token_it_listens_to_this_machine_only() {
    let refused = bind(Some("0.0.0.0:0".parse().unwrap()), None).err().unwrap();
    assert!(refused.contains("MILLRACE_API_TOKEN"), "{refused}");
    assert!(bind(Some("0.0.0.0:0".parse().unwrap()), Some(Token::new("x").unwrap())).is_ok());
    let (api, _fake) = serve(None);
    assert_eq!(get(&api, "/health", "").0, 200);
    for host in ["127.0.0.1:7070", "[::1]:7070", "LOCALHOST"] {
        assert_eq!(raw(&api, format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).0, 200, "{host}");
    }
    for host in ["millrace.example", "127.0.0.1.example:80", "10.0.0.1"] {
        assert_eq!(raw(&api, format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).0, 403, "{host}");
    }
}

#[test]
fn a_token_is_asked_for_everywhere_but_at_health() {
    let (api, _fake) = serve(Some("geheim"));
    assert_eq!(get(&api, "/health", "").0, 200);
    for headers in
        ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic geheim\r\n", "Authorization: Bearer\r\n"]
    {
        let (status, body) = get(&api, "/api/v1/pipelines/billing", headers);
        assert_eq!(status, 401);
        assert!(!body.contains("geheim") && !body.contains("billing"), "{body}");
    }
    assert_eq!(get(&api, "/api/v1/pipelines/billing", "authorization: bearer geheim\r\n").0, 200);
    assert_eq!(format!("{:?}", Token::new("geheim").unwrap()), "Token(…)");
    assert!(Token::new(" \n").is_err() && Token::new("zwei worte").is_err());
}

#[test]
fn what_is_no_request_is_refused_and_whoever_is_slow_is_cut_off() {
    let (api, _fake) = serve(None);
    let long = "x".repeat(20 << 10);
    assert_eq!(get(&api, &format!("/{long}"), "").0, 431);
    assert_eq!(get(&api, "/health", &"a: b\r\n".repeat(100)).0, 431);
    assert_eq!(raw(&api, b"\x16\x03\x01\x02\x00\x01\x00").0, 400);
    assert_eq!(get(&api, "/health", "Content-Length: many\r\n").0, 400);
    assert_eq!(get(&api, "/health", "Content-Length: 99999999999\r\n").0, 413);
    assert_eq!(get(&api, "/health", "Transfer-Encoding: chunked\r\n").0, 411);
    assert_eq!(raw(&api, b"GET /health HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").0, 200);
    let (status, body) = raw(&api, b"HEAD /health HTTP/1.1\r\n\r\n");
    assert_eq!((status, body.as_str()), (200, ""));

    // more of them than there are workers, and none says anything: they are cut off, and then others are served
    let mut silent: Vec<TcpStream> = (0..8).map(|_| connect(&api)).collect();
    silent[0].write_all(b"GET /hea").unwrap();
    assert_eq!(get(&api, "/health", "").0, 200);
    for stream in &mut silent {
        let mut nothing = Vec::new();
        // closed or reset, without an answer
        let _ = stream.read_to_end(&mut nothing);
        assert!(nothing.is_empty());
    }
}

#[test]
fn every_number_is_among_the_metrics() {
    let (api, fake) = serve(None);
    let node = fake.stats.node("metrics");
    let counters = [
        &node.rows_in_total,
        &node.rows_out_total,
        &node.bytes_in_total,
        &node.failed_total,
        &node.late_total,
        &node.duplicates_total,
        &node.plugin_failures_total,
        &fake.stats.committed_rows_total,
        &fake.stats.committed_files_total,
        &fake.stats.checkpoint,
        &fake.stats.committed,
    ];
    for (number, counter) in (7_001..).zip(counters) {
        counter.store(number, Relaxed);
    }
    node.groups.store(7_101, Relaxed);
    node.state_bytes.store(7_102, Relaxed);
    fake.stats.checkpoint_took_ms.store(7_103, Relaxed);
    let (_, text) = get(&api, "/metrics", "");
    let values: Vec<&str> = text.lines().filter_map(|l| Some(l.rsplit_once(' ')?.1)).collect();
    for number in (7_001..7_012).chain(7_101..7_103).map(|n: i32| n.to_string()).chain(["7.103".to_owned()]) {
        assert!(values.contains(&number.as_str()), "{number} is not in\n{text}");
    }
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (name, rest) = line.split_once('{').unwrap();
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        assert!(rest.starts_with("pipeline=\"billing\""), "{line}");
        let counter = text.contains(&format!("# TYPE {name} counter"));
        assert_eq!(counter, name.ends_with("_total"), "{name}");
    }
    assert!(text.contains("millrace_partition_backlog_messages{pipeline=\"billing\",source=\"events\",topic=\"ads\",partition=\"1\"} 4"), "{text}");
}

#[path = "tests/change.rs"]
mod change;
