//! `cargo xtask <chore>`: one command per chore.
//!
//! Depends on almost nothing, so that it builds in seconds on a fresh machine and can say what is missing there before
//! anything large is compiled.

use std::process::ExitCode;

use anyhow::Result;

mod build;
mod demo;
mod kafka;
mod languages;
mod lint;
mod needs;
mod shell;
mod test;

const USAGE: &str = "\
cargo xtask <chore>

  demo [--kafka] [ARGS…]       build everything, run the campaign pipeline live; ARGS go to `millrace demo`
  test [FILTER] [--no-kafka]   unit, property, golden and end-to-end tests (CI=true: nothing may be skipped)
  build                        the release binary and the plugins (target/release/millrace, target/plugins)
  plugins                      the plugins only
  bench [ARGS…]                events/s, CPU-seconds per million events, RSS, and the sandbox's share; plugins by themselves
  bench windows [ARGS…]        only windows beside tumbling ones, and numbers of keys
  bench plugins                only these: ns per row by batch size beside native, and their start
  lint                         rustfmt, clippy, cargo-deny where installed
  kafka start [--port P] | stop | status
                               a real Apache Kafka from Maven jars, on loopback
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((chore, arguments)) = arguments.split_first() else {
        eprint!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    match chore.as_str() {
        "demo" => demo::run(arguments),
        "test" => test::run(arguments),
        "build" => build::run().map(|()| ExitCode::SUCCESS),
        "plugins" => build::plugins().map(|()| ExitCode::SUCCESS),
        "bench" => build::bench(arguments),
        "lint" => lint::run(),
        "kafka" => kafka::run(arguments),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => {
            eprint!("error: no chore `{other}`\n\n{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
