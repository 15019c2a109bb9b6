//! What cannot work ends with one clear line that names it, and a code other than 0.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use millrace_tests::kafka::{Broker, SASL_PASSWORD, SASL_USER};
use millrace_tests::millrace::{Ended, Millrace};
use millrace_tests::paths::{Scratch, files_below};
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

/// The source with these client properties.
fn with_properties(bench: &mut Bench, brokers: &str, properties: &[(&str, &str)]) -> Result<()> {
    let properties: Vec<String> = properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect();
    bench.pipeline.source = format!(
        "type = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{}\"\nstart = \"earliest\"\nproperties = {{ {} }}\n",
        bench.topic,
        properties.join(", ")
    );
    bench.pipeline.write().map(drop)
}

fn login<'a>(protocol: &'a str, password: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("security.protocol", protocol),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", SASL_USER),
        ("sasl.password", password),
    ]
}

/// One line, with a hint, and no secret in it.
fn one_clear_line(ended: &Ended, secret: &str) -> Result<()> {
    ensure!(!ended.output.contains(secret), "a secret was printed:\n{}", ended.output);
    let errors: Vec<&str> = ended.output.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(errors.len() == 1 && errors[0].contains("hint: "), "not one line with a hint:\n{}", ended.output);
    Ok(())
}

#[test]
fn a_wrong_password_is_refused_and_never_shown() -> Result<()> {
    let mut bench = Bench::new("password")?;
    bench.produce(5_000)?;
    let brokers = Broker::shared().sasl_brokers();
    with_properties(&mut bench, &brokers, &login("sasl_plaintext", "${secret:MILLRACE_TEST_PASSWORD}"))?;
    let run = |password| Millrace::run(&bench.file(), &["--until-end"], &[("MILLRACE_TEST_PASSWORD", password)]);
    let ended = run("wrong-password-17")?.wait(MINUTE)?.failed(&["authentication", "\"sasl.password\""])?;
    one_clear_line(&ended, "wrong-password-17")?;

    let ended = run(SASL_PASSWORD)?.wait(MINUTE)?.ok()?;
    ensure!(!ended.output.contains(SASL_PASSWORD), "the password was printed:\n{}", ended.output);
    let files = files_below(&bench.pipeline.state());
    for file in &files {
        let bytes = std::fs::read(file)?;
        let found = bytes.windows(SASL_PASSWORD.len()).any(|window| window == SASL_PASSWORD.as_bytes());
        ensure!(!found, "the password is in {}", file.display());
    }
    ensure!(!files.is_empty(), "no checkpoint was looked at");
    bench.tables_match()
}

#[test]
fn tls_with_the_right_certificate_only() -> Result<()> {
    let mut bench = Bench::new("tls")?;
    bench.produce(5_000)?;
    let (brokers, certificate) = Broker::shared().tls_brokers();
    let certificate = certificate.display().to_string();
    // nobody has signed it but itself
    with_properties(&mut bench, &brokers, &login("sasl_ssl", SASL_PASSWORD))?;
    let ended = Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&["certificate", "ssl.ca.location"])?;
    one_clear_line(&ended, SASL_PASSWORD)?;

    let mut trusted = login("sasl_ssl", SASL_PASSWORD);
    trusted.push(("ssl.ca.location", &certificate));
    with_properties(&mut bench, &brokers, &trusted)?;
    Millrace::run_to_end(&bench.file(), MINUTE)?.ok()?;
    bench.tables_match()
}

#[test]
fn generate_says_what_is_wrong_with_its_broker() -> Result<()> {
    let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string();
    let generate = |brokers: &str, more: &[&str]| {
        let arguments = ["generate", "--kafka", brokers, "--topic", "generated", "--count", "1000"];
        Millrace::start(&[&arguments, more].concat(), &[])?.wait(MINUTE)
    };
    let ended = generate(&address, &[])?.failed(&[&address, "Connection refused", "--property"])?;
    one_clear_line(&ended, "[sources.")?;

    let password = "sasl.password=wrong-password-17";
    let user = format!("sasl.username={SASL_USER}");
    let login = ["security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN", &user, password];
    let more: Vec<&str> = login.into_iter().flat_map(|property| ["--property", property]).collect();
    let ended =
        generate(&Broker::shared().sasl_brokers(), &more)?.failed(&["authentication", "credentials", "--property"])?;
    one_clear_line(&ended, "wrong-password-17")?;

    let ended = generate(&address, &["--property", "no.such.thing=1"])?.failed(&["no.such.thing", "--property"])?;
    one_clear_line(&ended, "[sources.")
}
