//! Catalogs that are not there, or not for a while; a REST catalog with its warehouse on S3.

use anyhow::{Result, ensure};
use millrace_tests::millrace::Millrace;
use millrace_tests::pipeline::{CATALOG, Catalog};
use millrace_tests::rest_catalog::RestCatalog;
use millrace_tests::s3::{BUCKET, S3};
use serde_json::{Value, json};

use super::exactly_once::{kill_at_random, under_load};
use super::{Bench, MINUTE, TWO_MINUTES};

/// `lake` behind the server, everything but the checkpoints on S3.
fn over_rest(bench: &mut Bench, server: &RestCatalog, s3: &S3) -> Result<()> {
    let uri = server.uri();
    let mut for_python = s3.for_python();
    for_python["type"] = Value::from("rest");
    for_python["uri"] = Value::from(uri.as_str());
    // the server knows where its warehouse is
    let toml = format!("type = \"rest\"\nuri = \"{uri}\"\n{}", s3.properties());
    bench.pipeline.catalog = Catalog { toml, for_python };
    bench.pipeline.write().map(drop)
}

/// How many commits with rows in them the tables on S3 have seen.
fn commits(s3: &S3) -> Result<usize> {
    let is_manifest = |key: &&String| key.ends_with(".avro") && !key.contains("/snap-");
    Ok(s3.keys("warehouse/")?.iter().filter(is_manifest).count())
}

#[test]
fn sigkill_and_zombies_over_rest_and_s3() -> Result<()> {
    let s3 = S3::start()?;
    let mut bench = Bench::new("rest-s3")?;
    let server = RestCatalog::start(&bench.scratch.path().join("rest"), &s3)?;
    over_rest(&mut bench, &server, &s3)?;
    bench.produce(10_000)?;
    under_load(&mut bench, |file| {
        for failpoint in ["commit.before@2", "commit.applied-answer-lost@1", "commit.after@2"] {
            let ended = Millrace::run(file, &[], &[("MILLRACE_FAILPOINT", failpoint)])?.wait(MINUTE)?;
            ensure!(ended.was_killed(), "{failpoint}: ended with {}:\n{}", ended.status, ended.output);
        }
        kill_at_random(file, 2, 29)
    })?;

    let mut older = Millrace::run(&bench.file(), &[], &[])?;
    let before = commits(&s3)?;
    bench.produce(10_000)?;
    older.while_running("a commit", MINUTE, || Ok(commits(&s3)? > before))?;
    let newer = Millrace::run(&bench.file(), &[], &[])?;
    bench.produce(10_000)?;
    older.wait(MINUTE)?.failed(&["generation", "taken|fenced|took"])?;
    newer.terminate(MINUTE)?.ok()?;

    let ended = Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    ensure!(!ended.output.contains(&s3.secret), "the secret was printed:\n{}", ended.output);
    ensure!(!bench.pipeline.warehouse().exists(), "there is a local warehouse, too");
    bench.tables_match()
}

#[test]
fn a_rest_catalog_that_goes_away() -> Result<()> {
    let s3 = S3::start()?;
    let mut bench = Bench::new("rest-gone")?;
    let mut server = RestCatalog::start(&bench.scratch.path().join("rest"), &s3)?;
    over_rest(&mut bench, &server, &s3)?;
    bench.produce(10_000)?;
    let mut millrace = Millrace::run(&bench.file(), &[], &[])?;
    millrace.while_running("the first commit", MINUTE, || Ok(commits(&s3)? > 0))?;

    // for a while: the commit waits
    server.kill();
    bench.produce(10_000)?;
    millrace.wait_for_words("looking again in", MINUTE)?;
    let before = commits(&s3)?;
    server.restart()?;
    millrace.while_running("a commit after it came back", MINUTE, || Ok(commits(&s3)? > before))?;

    // for good: the run ends, and the next start says so before it reads anything
    server.kill();
    bench.produce(10_000)?;
    millrace.wait(TWO_MINUTES)?.failed(&["ads.campaign_", "hint: given up after"])?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.failed(&[CATALOG, &server.uri(), "does not answer", "hint:"])?;

    server.restart()?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}

#[test]
fn an_sql_catalog_with_its_warehouse_on_s3() -> Result<()> {
    let s3 = S3::start()?;
    let mut bench = Bench::new("sql-s3")?;
    let database = bench.scratch.path().join("catalog.db");
    let mut for_python = s3.for_python();
    for_python["type"] = Value::from("sql");
    for_python["uri"] = Value::from(format!("sqlite:///{}", database.display()));
    for_python["init_catalog_tables"] = Value::from("false");
    let toml = format!(
        "type = \"sql\"\nuri = \"sqlite:catalog.db\"\nwarehouse = \"s3://{BUCKET}/warehouse\"\n{}",
        s3.properties()
    );
    bench.pipeline.catalog = Catalog { toml, for_python };
    bench.pipeline.write()?;
    bench.produce(10_000)?;
    under_load(&mut bench, |file| kill_at_random(file, 2, 31))?;
    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()?;

    // what was a database is none: named, and nothing is made anew in its place
    std::fs::write(&database, "this is not a database, and long enough to look at: ".repeat(40))?;
    let file = database.display().to_string();
    Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&[CATALOG, &file, "not a database"])?;
    Ok(())
}

#[test]
fn wrong_keys_for_the_warehouse_are_named_and_not_shown() -> Result<()> {
    let s3 = S3::start()?;
    let mut bench = Bench::new("s3-warehouse-refused")?;
    let properties = s3.properties().replace(&s3.secret, "wrong-secret-17");
    let toml =
        format!("type = \"sql\"\nuri = \"sqlite:catalog.db\"\nwarehouse = \"s3://{BUCKET}/warehouse\"\n{properties}");
    bench.pipeline.catalog = Catalog { toml, for_python: json!({}) };
    bench.pipeline.write()?;
    let ended = Millrace::run_to_end(&bench.file(), MINUTE)?.failed(&["ads.campaign_", "PermissionDenied"])?;
    ensure!(!ended.output.contains("wrong-secret-17"), "the secret was printed:\n{}", ended.output);
    Ok(())
}
