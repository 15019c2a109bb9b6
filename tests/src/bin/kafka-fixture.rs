//! `kafka-fixture start|stop|status [--port P]`: the broker of the tests, for people. `cargo xtask kafka` runs it.
//!
//! Prints the broker's address on stdout, and nothing else there.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use millrace_tests::{kafka, paths};

const USAGE: &str = "usage: kafka-fixture start [--port PORT] | stop | status";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let dir = paths::target().join("kafka/detached");
    match arguments[..] {
        ["start"] => println!("{}", kafka::start_detached(&dir, None)?),
        ["start", "--port", port] => {
            let port = port.parse().with_context(|| format!("`{port}` is not a port"))?;
            println!("{}", kafka::start_detached(&dir, Some(port))?);
        }
        ["stop"] => {
            if !kafka::stop_detached(&dir)? {
                eprintln!("no broker was running");
            }
        }
        ["status"] => match kafka::detached_status(&dir)? {
            Some(address) => println!("{address}"),
            None => {
                eprintln!("not running");
                return Ok(ExitCode::FAILURE);
            }
        },
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}
