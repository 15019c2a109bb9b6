//! Requests that change a run, on a [`Control`] that remembers what it was asked.

use std::sync::Mutex;

use millrace_core::swap::{Phase, SwapRecord, Version};

use super::*;
use crate::runtime::control::{Refused, SwapRequest};

const MARK: &str = "X-Millrace: 1\r\n";

#[derive(Default)]
struct Asked {
    swaps: Mutex<Vec<SwapRequest>>,
    others: Mutex<Vec<String>>,
    /// a savepoint takes until this is locked no more
    slow: Mutex<()>,
}

impl Control for Asked {
    fn swap(&self, request: SwapRequest) -> Result<SwapRecord, Refused> {
        match request.operator.as_str() {
            "metrics" => {}
            "busy" => return Err(Refused::Conflict("a swap is under way".into())),
            "wrong" => return Err(Refused::Invalid("it is no aggregation".into())),
            other => return Err(Refused::Unknown(format!("no operator `{other}`"))),
        }
        let record = SwapRecord { id: 1, operator: "metrics".into(), by: request.by.clone(), ..SwapRecord::default() };
        self.swaps.lock().unwrap().push(request);
        Ok(record)
    }

    fn rollback(&self, operator: &str, drain: bool, by: &str) -> Result<SwapRecord, Refused> {
        let how = if drain { " drained" } else { "" };
        self.others.lock().unwrap().push(format!("rollback{how} {operator} {by}"));
        Ok(SwapRecord { id: 2, operator: operator.into(), is_rollback: true, ..SwapRecord::default() })
    }

    fn swaps(&self) -> Vec<SwapRecord> {
        let to = Version { name: "m".into(), version: "2".into(), sha256: "ab".into(), config: "{}".into() };
        let done = SwapRecord { id: 7, phase: Phase::Done, pause_us: Some(2_500), to, ..SwapRecord::default() };
        vec![SwapRecord { operator: "metrics".into(), requested_at_ms: 5, ..done }]
    }

    fn stop(&self, drain: bool, by: &str) -> Result<(), Refused> {
        let how = if drain { " drained" } else { "" };
        self.others.lock().unwrap().push(format!("stop{how} {by}"));
        Ok(())
    }

    fn savepoint(&self, folder: &str, by: &str) -> Result<u64, Refused> {
        let _until = self.slow.lock().unwrap();
        self.others.lock().unwrap().push(format!("savepoint {folder} {by}"));
        Ok(12)
    }
}

fn controlled(token: Option<&str>) -> (Api, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    let (running, _fake) = fake();
    let running = Running { control: Some(Arc::clone(&asked) as _), ..running };
    let bound = bind(Some("127.0.0.1:0".parse().unwrap()), token.map(|t| Token::new(t).unwrap())).unwrap();
    (bound.serve(running).unwrap(), asked)
}

fn post(api: &Api, below: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("POST /api/v1/pipelines/billing{below} HTTP/1.1\r\nHost: localhost:1\r\n{headers}{length}\r\n");
    raw(api, &[head.as_bytes(), body].concat())
}

#[test]
fn a_swap_is_asked_for_with_all_that_was_sent() {
    let (api, asked) = controlled(None);
    let plugin: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let headers =
        format!("{MARK}Content-Type: application/wasm\r\nX-Millrace-User: jane@laptop\r\nExpect: 100-continue\r\n");
    let (status, body) = post(&api, "/operators/metrics/plugin?replace=true&config.a=b", &headers, &plugin);
    // the first answer is `100 Continue`
    assert!(status == 100 && body.contains("HTTP/1.1 202 Accepted"), "{status} {body}");
    assert!(body.contains("Location: /api/v1/pipelines/billing/swaps/1\r\n"), "{body}");
    let request = asked.swaps.lock().unwrap().pop().unwrap();
    assert_eq!(request.bytes.as_deref(), Some(plugin.as_slice()));
    assert_eq!((request.by.as_str(), request.replace), ("jane@laptop (local)", true));

    assert_eq!(post(&api, "/operators/metrics/plugin?config.a=b", MARK, b"").0, 202);
    assert_eq!(asked.swaps.lock().unwrap().pop().unwrap().bytes, None);

    let wasm = format!("{MARK}Content-Type: application/wasm\r\n");
    for (below, headers, body, status) in [
        ("/operators/none/plugin", &wasm, &b"x"[..], 404),
        ("/operators/busy/plugin", &wasm, b"x", 409),
        ("/operators/wrong/plugin", &wasm, b"x", 422),
        ("/operators/metrics/plugin", &MARK.to_owned(), b"x", 415),
        ("/operators/metrics/plugin", &MARK.to_owned(), b"", 400),
        ("/operators/metrics/plugin?shadow=x", &wasm, b"x", 400),
        ("/operators/metrics/plugin", &format!("{wasm}X-Millrace-User: \x01\r\n"), b"x", 400),
    ] {
        assert_eq!(post(&api, below, headers, body).0, status, "{below} {headers}");
    }
    assert_eq!(asked.swaps.lock().unwrap().len(), 0);
}

#[test]
fn the_other_changes_and_the_history() {
    let (api, asked) = controlled(None);
    assert_eq!(post(&api, "/operators/metrics/rollback", MARK, b"").0, 202);
    assert_eq!(post(&api, "/stop", MARK, b"").0, 202);
    let json = format!("{MARK}Content-Type: application/json\r\n");
    let (status, body) = post(&api, "/savepoints", &json, br#"{"folder": "/save"}"#);
    assert_eq!((status, body.as_str()), (201, r#"{"checkpoint":12,"folder":"/save"}"#));
    assert_eq!(post(&api, "/operators/metrics/rollback?drain=true", MARK, b"").0, 202);
    assert_eq!(post(&api, "/stop?drain=true", MARK, b"").0, 202);
    let expected = [
        "rollback metrics local",
        "stop local",
        "savepoint /save local",
        "rollback drained metrics local",
        "stop drained local",
    ];
    assert_eq!(*asked.others.lock().unwrap(), expected);
    for (below, headers, body, status) in [
        ("/stop", MARK, &b"x"[..], 400),
        ("/stop?now=true", MARK, b"", 400),
        ("/operators/metrics/rollback", MARK, b"x", 400),
        ("/savepoints", MARK, br#"{"folder": "/save"}"#, 415),
        ("/savepoints", &json, br#"{"folder": "save"}"#, 400),
    ] {
        assert_eq!(post(&api, below, headers, body).0, status, "{below}");
    }
    assert_eq!(asked.others.lock().unwrap().len(), 5);
    let one = get(&api, "/api/v1/pipelines/billing/swaps/7", "");
    assert_eq!(serde_json::from_str::<SwapRecord>(&one.1).unwrap().phase, Phase::Done);
    for id in ["8", "x", "-1"] {
        assert_eq!(get(&api, &format!("/api/v1/pipelines/billing/swaps/{id}"), "").0, 404);
    }
    for _ in 0..2 {
        let (_, text) = get(&api, "/metrics", "");
        let of = r#"{pipeline="billing",node="metrics""#;
        assert!(text.contains(&format!("millrace_swaps_total{of},outcome=\"done\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("millrace_swap_pause_seconds{of}}} 0.0025\n")), "{text}");
    }
}

#[test]
fn no_page_in_a_browser_changes_a_run() {
    let (api, asked) = controlled(None);
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "X-Millrace: 1\r\nOrigin: https://evil.example\r\n",
        "X-Millrace: 1\r\nOrigin: null\r\n",
        "X-Millrace: 1\r\nOrigin: http://localhost:2\r\n",
    ] {
        assert_eq!(post(&api, "/stop", headers, b"").0, 403, "{headers}");
    }
    assert!(asked.others.lock().unwrap().is_empty());
    assert_eq!(post(&api, "/stop", "X-Millrace: 1\r\nOrigin: http://localhost:1\r\n", b"").0, 202);
    // a preflight is not answered with anything that allows
    let (status, _) = raw(&api, b"OPTIONS /api/v1/pipelines/billing/stop HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(status, 405);
}

#[test]
fn without_the_token_nothing_is_read_or_changed() {
    let (api, asked) = controlled(Some("geheim"));
    let head = "POST /api/v1/pipelines/billing/operators/metrics/plugin HTTP/1.1\r\nContent-Length: 60000000\r\n";
    // answered by the head alone
    assert_eq!(raw(&api, format!("{head}{MARK}\r\nfirst bytes").as_bytes()).0, 401);
    assert_eq!(post(&api, "/stop", MARK, b"").0, 401);
    assert!(asked.others.lock().unwrap().is_empty());
    assert_eq!(post(&api, "/stop", &format!("{MARK}Authorization: Bearer geheim\r\n"), b"").0, 202);
    assert_eq!(*asked.others.lock().unwrap(), ["stop token"]);
}

#[test]
fn bodies_are_bounded_by_route() {
    let (api, _asked) = controlled(None);
    let long = |below: &str, bytes: u64| post(&api, below, &format!("{MARK}Content-Length: {bytes}\r\n"), b"").0;
    assert_eq!(long("/operators/metrics/plugin", (64 << 20) + 1), 413);
    assert_eq!(long("/savepoints", (64 << 10) + 1), 413);
}

#[test]
fn one_long_change_at_a_time_and_neither_reads_nor_a_rollback_wait_for_it() {
    let (api, asked) = controlled(None);
    let until = asked.slow.lock().unwrap();
    let json = format!("{MARK}Content-Type: application/json\r\n");
    let body = br#"{"folder": "/save"}"#;
    let request = format!(
        "POST /api/v1/pipelines/billing/savepoints HTTP/1.1\r\nHost: localhost\r\n{json}Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut first = connect(&api);
    first.write_all(&[request.as_bytes(), body].concat()).unwrap();
    while post(&api, "/savepoints?", &json, b"").0 != 409 {
        std::thread::yield_now();
    }
    assert_eq!(post(&api, "/operators/metrics/plugin?config.a=b", MARK, b"").0, 409);
    assert_eq!(get(&api, "/api/v1/pipelines/billing", "").0, 200);
    assert_eq!(post(&api, "/operators/metrics/rollback", MARK, b"").0, 202);
    drop(until);
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created"), "{answer}");
    assert_eq!(post(&api, "/operators/metrics/plugin?config.a=b", MARK, b"").0, 202);
}

#[test]
fn a_run_without_control_cannot_be_changed() {
    let (api, _fake) = serve(None);
    assert_eq!(post(&api, "/stop", MARK, b"").0, 409);
}
