//! Two processes with one name: the older one ends with a clear error, the tables are right.

use anyhow::Result;
use millrace_tests::millrace::Millrace;

use super::{Bench, MINUTE, TWO_MINUTES};

#[test]
fn the_older_of_two_processes_is_fenced() -> Result<()> {
    let mut bench = Bench::new("zombie")?;
    bench.produce(20_000)?;
    let mut older = Millrace::run(&bench.file(), &[], &[])?;
    older.while_running("the first commit", MINUTE, || Ok(bench.commits() > 0))?;

    let newer = Millrace::run(&bench.file(), &[], &[])?;
    // both have something to write
    bench.produce(20_000)?;
    older.wait(MINUTE)?.failed(&["generation", "taken|fenced|took"])?;
    newer.terminate(MINUTE)?.ok()?;

    Millrace::run_to_end(&bench.file(), TWO_MINUTES)?.ok()?;
    bench.tables_match()
}
