//! All tests, and one line of numbers at the end.
//!
//! ```text
//!   1  build      the binary and the plugins that the end-to-end tests drive
//!   2  workspace  unit, property and golden tests
//!   3  languages  plugins in JavaScript, Python and C: the helpers, and campaign-metrics' golden cases
//!   4  e2e        tests/tests/e2e: `kafka::…` want a broker, all want the Python oracle
//! ```
//!
//! What a missing tool makes impossible is named and counted as skipped; with `CI=true` that is a failure.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{build, languages, needs, shell};

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

struct Options {
    filter: Option<String>,
    kafka: bool,
}

pub fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = parse(arguments)?;
    build::run()?;
    let mut counts = Counts::default();
    let mut well = true;

    let mut workspace = shell::cargo();
    workspace.args(["test", "--release", "--workspace", "--no-fail-fast", "--"]).args(options.filter.as_deref());
    well &= tested(&mut workspace, &mut counts)?;

    if options.filter.as_deref().is_none_or(|filter| filter == "languages") {
        let (passed, failed, skipped) = languages::run()?;
        counts.passed += passed;
        counts.failed += failed;
        counts.skipped += skipped;
    }

    well &= end_to_end(&options, &mut counts)?;

    let Counts { passed, failed, skipped } = counts;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if skipped > 0 && in_ci() {
        eprintln!("error: in CI nothing may be skipped");
        well = false;
    }
    if passed + failed + skipped == 0 {
        eprintln!("error: no test has this in its name: {}", options.filter.unwrap_or_default());
        well = false;
    }
    Ok(if well && failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options { filter: None, kafka: true };
    for argument in arguments {
        match argument.as_str() {
            "--no-kafka" => options.kafka = false,
            flag if flag.starts_with('-') => bail!("no flag `{flag}`: cargo xtask test [FILTER] [--no-kafka]"),
            filter if options.filter.is_none() => options.filter = Some(filter.to_owned()),
            more => bail!("one filter is enough, `{more}` is too many"),
        }
    }
    Ok(options)
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "0" && ci != "false")
}

fn end_to_end(options: &Options, counts: &mut Counts) -> Result<bool> {
    let filter = options.filter.as_deref();
    if let Some(missing) = needs::for_oracle() {
        eprintln!("end-to-end tests are skipped: {missing}");
        counts.skipped += listed(filter, &[])?;
        return Ok(true);
    }
    let no_kafka = if options.kafka { needs::for_kafka() } else { Some("--no-kafka was given") };
    let mut command = e2e();
    command.args(filter);
    if let Some(why) = no_kafka {
        eprintln!("tests against Kafka are skipped: {why}");
        counts.skipped += listed(filter, &[])?.saturating_sub(listed(filter, &["--skip", "kafka::"])?);
        command.args(["--skip", "kafka::"]);
    }
    tested(&mut command, counts)
}

/// The same packages as the workspace's tests, so that features agree and nothing is built again.
fn e2e() -> Command {
    let mut command = shell::cargo();
    command.args(["test", "--release", "--workspace", "--test", "e2e", "--"]);
    command
}

/// How many end-to-end tests there are.
fn listed(filter: Option<&str>, more: &[&str]) -> Result<u64> {
    let listed = shell::stdout(e2e().args(filter).args(more).args(["--list", "--format", "terse"]))?;
    let count = listed.lines().filter(|line| line.ends_with(": test")).count();
    u64::try_from(count).context("counting tests")
}

/// Runs `cargo test`, shows what it prints as it comes, adds up its result lines. False if it failed in any way.
fn tested(command: &mut Command, counts: &mut Counts) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
    let stdout = child.stdout.take().context("cargo's stdout")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        std::io::stdout().flush()?;
        if let Some(result) = result_line(&line) {
            counts.passed += result.passed;
            counts.failed += result.failed;
            counts.skipped += result.skipped;
        }
    }
    Ok(child.wait()?.success())
}

/// `test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 5 filtered out; finished in 0.01s`
fn result_line(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name: &str| {
        numbers.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Some(Counts { passed: number("passed"), failed: number("failed"), skipped: number("ignored") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 5 filtered out; finished in 0.01s";
        let Counts { passed, failed, skipped } = result_line(line).unwrap();
        assert_eq!((passed, failed, skipped), (12, 1, 3));
        assert!(result_line("test spec::a_result ... ok").is_none());
    }

    #[test]
    fn one_filter_and_the_flag_are_taken() {
        let options = parse(&["oracle".to_owned(), "--no-kafka".to_owned()]).unwrap();
        assert_eq!((options.filter.as_deref(), options.kafka), (Some("oracle"), false));
        assert!(parse(&["--nokafka".to_owned()]).is_err());
        assert!(parse(&["a".to_owned(), "b".to_owned()]).is_err());
    }
}
