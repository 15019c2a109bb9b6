//! The broker is killed and comes back: the run waits and goes on.

use anyhow::{Result, ensure};
use millrace_tests::events::Shape;
use millrace_tests::kafka::Broker;
use millrace_tests::millrace::Millrace;
use millrace_tests::paths::Scratch;

use super::{Bench, MINUTE, TWO_MINUTES};

#[test]
fn a_killed_broker_costs_nothing_but_time() -> Result<()> {
    // a broker of its own: the others' must live
    let data = Scratch::new("killed-broker")?;
    let mut broker = Broker::start(&data.path().join("kafka"))?;
    let mut bench = Bench::on("broker-restart", &broker.brokers(), Shape::default())?;
    bench.produce(20_000)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    millrace.while_running("the first commit", MINUTE, || Ok(bench.commits() > 0))?;

    broker.kill();
    broker.restart()?;
    ensure!(millrace.is_running()?, "millrace has given up with its broker");
    let before = bench.commits();
    bench.produce(20_000)?;
    millrace.while_running("a commit after the broker came back", TWO_MINUTES, || Ok(bench.commits() > before))?;
    millrace.terminate(MINUTE)?.ok()?;

    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn a_run_whose_broker_never_comes_back_can_be_stopped() -> Result<()> {
    let data = Scratch::new("dead-broker")?;
    let mut broker = Broker::start(&data.path().join("kafka"))?;
    let mut bench = Bench::on("broker-dead", &broker.brokers(), Shape::default())?;
    bench.produce(20_000)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    millrace.while_running("the first commit", MINUTE, || Ok(bench.commits() > 0))?;
    broker.kill();
    millrace.wait_for_words(&format!("is Kafka reachable at {}", broker.brokers()), MINUTE)?;
    millrace.terminate(MINUTE)?.ok()?;

    broker.restart()?;
    bench.produce(20_000)?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}
