//! An S3 store that verifies signatures and honours `If-None-Match`: moto, from the oracle's virtual environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{oracle, paths, process};

/// The one bucket.
pub const BUCKET: &str = "millrace";
pub const REGION: &str = "us-east-1";

#[derive(Debug)]
pub struct S3 {
    child: Child,
    pub endpoint: String,
    pub key: String,
    pub secret: String,
}

impl S3 {
    pub fn start() -> Result<Self> {
        let mut command = Command::new(oracle::ensure_python()?);
        command
            .arg(paths::workspace().join("tests/oracle/s3_server.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = process::spawn(command).context("starting the S3 server")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its stdout")?).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| format!("the S3 server said `{line}`"))?;
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        Ok(Self { child, endpoint: text("endpoint"), key: text("key"), secret: text("secret") })
    }

    /// The properties of a checkpoint location or a catalog, as an inline table of a pipeline file.
    pub fn properties(&self) -> String {
        let Self { endpoint, key, secret, .. } = self;
        format!(
            "properties = {{ \"s3.endpoint\" = \"{endpoint}\", \"s3.region\" = \"{REGION}\", \"s3.path-style-access\" = \"true\", \
             \"s3.access-key-id\" = \"{key}\", \"s3.secret-access-key\" = \"{secret}\" }}\n"
        )
    }

    /// The same for PyIceberg.
    pub fn for_python(&self) -> Value {
        let Self { endpoint, key, secret, .. } = self;
        json!({ "s3.endpoint": endpoint, "s3.region": REGION, "s3.access-key-id": key, "s3.secret-access-key": secret })
    }

    /// The same, as AWS's tools take them from the environment.
    pub fn environment(&self) -> [(&str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL_S3", &self.endpoint),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", &self.key),
            ("AWS_SECRET_ACCESS_KEY", &self.secret),
        ]
    }

    /// All keys of the bucket that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let all = self.get("/_keys")?;
        Ok(all.lines().filter(|key| key.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// While down, every request to the store is answered 503.
    pub fn set_down(&self, down: bool) -> Result<()> {
        self.get(if down { "/_down" } else { "/_up" }).map(drop)
    }

    fn get(&self, path: &str) -> Result<String> {
        let address = self.endpoint.strip_prefix("http://").unwrap_or(&self.endpoint);
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        ensure!(head.contains(" 200 "), "{path}: {answer}");
        Ok(body.to_owned())
    }
}

impl S3 {
    /// For good: what it held is gone.
    pub fn stop(&mut self) {
        process::signal(&self.child, libc::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}
