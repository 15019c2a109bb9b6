//! The HTTP API of a running pipeline, asked as any client would: a socket and JSON, no client library of the host's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::millrace::Millrace;
use crate::pipeline::Pipeline;

const TIMEOUT: Duration = Duration::from_secs(60);
/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where one run answers.
#[derive(Clone, Debug)]
pub struct Api {
    address: String,
    pipeline: String,
    /// the header with the token, as a line; none: empty
    authorization: String,
}

impl Api {
    /// Waits until the run has said where.
    pub fn of(millrace: &mut Millrace, pipeline: &Pipeline) -> Result<Self> {
        let line = millrace.wait_for_line("api: http://", TIMEOUT)?;
        let address = line.rsplit("http://").next().unwrap_or_default().trim().to_owned();
        Ok(Self { address, pipeline: pipeline.name.clone(), authorization: String::new() })
    }

    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { authorization: format!("Authorization: Bearer {token}\r\n"), ..self }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is below the pipeline's own path.
    pub fn get(&self, below: &str) -> Result<Value> {
        let path = format!("/api/v1/pipelines/{}{below}", self.pipeline);
        let (answer, body) = self.whole(&path)?;
        serde_json::from_str(&body).with_context(|| format!("{path}: {answer}"))
    }

    /// All of an answer, and its body.
    pub fn whole(&self, path: &str) -> Result<(String, String)> {
        let Self { address, authorization, .. } = self;
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Connection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("reading {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        let body = body.to_owned();
        Ok((answer, body))
    }

    /// Asks for a change below the pipeline's own path. The status, and the answer.
    pub fn post(&self, below: &str, content_type: &str, body: &[u8]) -> Result<(u16, Value)> {
        let path = format!("/api/v1/pipelines/{}{below}", self.pipeline);
        let mut stream =
            TcpStream::connect(&self.address).with_context(|| format!("connecting to {}", self.address))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let kind = if body.is_empty() { String::new() } else { format!("Content-Type: {content_type}\r\n") };
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nX-Millrace: 1\r\n{}{kind}Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            self.authorization,
            body.len()
        )?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("reading {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, serde_json::from_str(body).with_context(|| format!("{path}: {answer}"))?))
    }

    pub fn status(&self) -> Result<Value> {
        self.get("")
    }

    pub fn explain(&self) -> Result<Value> {
        self.get("/explain")
    }

    /// An operator's part of the explanation.
    pub fn operator(&self, name: &str) -> Result<Value> {
        Ok(named(&self.explain()?["operators"], name))
    }

    /// A node's counters.
    pub fn node(&self, name: &str) -> Result<Value> {
        Ok(named(&self.status()?["nodes"], name))
    }

    pub fn partition(&self, source: &str, partition: i64) -> Result<Value> {
        let source = named(&self.explain()?["sources"], source);
        let found = source["partitions"].as_array().into_iter().flatten().find(|p| p["partition"] == partition);
        Ok(found.cloned().unwrap_or(Value::Null))
    }

    /// Waits until the operator's watermark has come to an instant. Where it then is.
    pub fn wait_for_watermark(&self, millrace: &mut Millrace, operator: &str, ms: i64) -> Result<()> {
        millrace.while_running(&format!("the watermark of {operator} to be {ms}"), TIMEOUT, || {
            Ok(self.operator(operator)?["watermark_ms"].as_i64().is_some_and(|at| at >= ms))
        })
    }

    /// Waits until so many rows have come to a node in this run.
    pub fn wait_for_rows(&self, millrace: &mut Millrace, node: &str, rows: i64) -> Result<()> {
        self.wait_for_count(millrace, node, "rows_in_total", rows)
    }

    /// Waits until a counter of a node has come to a value.
    pub fn wait_for_count(&self, millrace: &mut Millrace, node: &str, counter: &str, value: i64) -> Result<()> {
        millrace.while_running(&format!("{counter} of {node} to be {value}"), TIMEOUT, || {
            Ok(self.node(node)?[counter].as_i64().is_some_and(|at| at >= value))
        })
    }
}

/// Null while a run that has just begun knows nothing of it yet.
fn named(all: &Value, name: &str) -> Value {
    all.as_array().into_iter().flatten().find(|one| one["name"] == name).cloned().unwrap_or(Value::Null)
}
