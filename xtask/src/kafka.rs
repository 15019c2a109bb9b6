//! The tests' broker, for people: `cargo xtask kafka start|stop|status`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{needs, shell};

pub fn run(arguments: &[String]) -> Result<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["start"] => println!("KAFKA_BROKERS={}", start(None)?),
        ["start", "--port", port] => println!("KAFKA_BROKERS={}", start(Some(port))?),
        ["stop"] => stop()?,
        ["status"] => match status()? {
            Some(address) => println!("KAFKA_BROKERS={address}"),
            None => {
                println!("not running");
                return Ok(ExitCode::FAILURE);
            }
        },
        _ => bail!("usage: cargo xtask kafka start [--port PORT] | stop | status"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts it unless it runs; returns its address.
pub fn start(port: Option<&str>) -> Result<String> {
    if let Some(missing) = needs::for_kafka() {
        bail!("{missing}");
    }
    let mut command = fixture()?;
    command.arg("start");
    if let Some(port) = port {
        command.args(["--port", port]);
    }
    shell::stdout(&mut command)
}

pub fn stop() -> Result<()> {
    shell::run(fixture()?.arg("stop"))
}

pub fn status() -> Result<Option<String>> {
    let output = fixture()?.arg("status").output()?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

fn fixture() -> Result<Command> {
    needs::for_build()?;
    shell::run(shell::cargo().args([
        "build",
        "--quiet",
        "--release",
        "-p",
        "millrace-tests",
        "--bin",
        "kafka-fixture",
    ]))?;
    Ok(shell::program(shell::target().join("release/kafka-fixture")))
}
