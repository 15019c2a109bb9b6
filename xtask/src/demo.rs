//! Everything built, then `millrace demo`; with `--kafka` over a real broker.

use std::process::ExitCode;

use anyhow::Result;

use crate::{build, kafka, shell};

pub fn run(arguments: &[String]) -> Result<ExitCode> {
    build::run()?;
    let mut demo = shell::program(shell::target().join("release/millrace"));
    demo.arg("demo").args(arguments);
    let ours = if arguments.iter().any(|argument| argument == "--kafka") && std::env::var_os("KAFKA_BROKERS").is_none()
    {
        let running = kafka::status()?.is_some();
        let address = kafka::start(None)?;
        eprintln!("Apache Kafka on {address} (another one: KAFKA_BROKERS=host:port)");
        demo.env("KAFKA_BROKERS", address);
        !running
    } else {
        false
    };
    ignore_interrupt();
    let status = shell::status(&mut demo);
    if ours {
        kafka::stop()?;
    }
    Ok(shell::code(status?))
}

/// Ctrl-C reaches the demo too, which ends cleanly; we wait for it, and stop what we started.
fn ignore_interrupt() {
    unsafe extern "C" {
        fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    }
    // a handler, not SIG_IGN: that one would be inherited by the demo
    extern "C" fn nothing(_: i32) {}
    const SIGINT: i32 = 2;
    // SAFETY: the C library's `signal`, and a handler that does nothing; a caught signal is reset by exec.
    unsafe {
        signal(SIGINT, nothing);
    }
}
