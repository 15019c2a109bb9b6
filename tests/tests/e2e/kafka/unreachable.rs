//! What cannot work ends with one clear line that names it, and a code other than 0.

use std::net::TcpListener;

use anyhow::Result;
use millrace_tests::kafka::{Broker, SASL_PASSWORD, SASL_USER};
use millrace_tests::millrace::Millrace;
use millrace_tests::paths::Scratch;
use millrace_tests::pipeline::Pipeline;
use millrace_tests::topic;

use super::{Bench, MINUTE, TWO_MINUTES};

#[test]
fn a_missing_topic_is_named() -> Result<()> {
    let scratch = Scratch::new("no-topic")?;
    let pipeline = Pipeline::kafka(scratch.path(), &Broker::shared().brokers(), "there-is-no-such-topic");
    Millrace::run_to_end(&pipeline.write()?, TWO_MINUTES)?.failed(&["there-is-no-such-topic"])?;
    Ok(())
}

#[test]
fn a_broker_that_is_down_is_named() -> Result<()> {
    let scratch = Scratch::new("no-broker")?;
    // bound and let go: nobody listens there
    let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string();
    let pipeline = Pipeline::kafka(scratch.path(), &address, &topic::unique("nothing"));
    Millrace::run_to_end(&pipeline.write()?, TWO_MINUTES)?.failed(&[&address])?;
    Ok(())
}

fn with_password(bench: &mut Bench, password: &str) -> Result<()> {
    bench.pipeline.source = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{}\"\nstart = \"earliest\"\n\
         properties = {{ \"security.protocol\" = \"sasl_plaintext\", \"sasl.mechanism\" = \"PLAIN\", \
         \"sasl.username\" = \"{SASL_USER}\", \"sasl.password\" = \"{password}\" }}\n",
        Broker::shared().sasl_brokers(),
        bench.topic
    );
    bench.pipeline.write().map(drop)
}

#[test]
fn a_wrong_password_is_refused_and_never_shown() -> Result<()> {
    let mut bench = Bench::new("password")?;
    bench.produce(5_000)?;
    with_password(&mut bench, "wrong-password-17")?;
    let ended = Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.failed(&["authentication"])?;
    assert!(!ended.output.contains("wrong-password-17"), "the password was printed:\n{}", ended.output);

    with_password(&mut bench, SASL_PASSWORD)?;
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;
    bench.tables_match()
}
