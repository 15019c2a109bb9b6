//! `millrace query`: a table on a terminal, CSV or JSON where a program reads.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use datafusion::arrow::array::RecordBatch;

use super::open::load;
use super::{Failure, Format, QueryArgs};
use crate::query::{At, query};
use crate::spec::parse_instant_ms;

pub fn run(args: &QueryArgs) -> Result<(), Failure> {
    let loaded = load(&args.file)?;
    let at = match (&args.snapshot, &args.as_of) {
        (Some(id), _) => At::Snapshot(*id),
        (None, Some(time)) => At::TimeMs(parse_instant_ms(time).ok_or_else(|| {
            Failure::Usage(format!("--as-of {time}: expected RFC 3339, such as 2026-01-31T12:00:00Z"))
        })?),
        (None, None) => At::Now,
    };
    let runtime = super::run::io_runtime()?;
    let batches = runtime.block_on(query(&loaded.pipeline.catalogs, &args.sql, at))?;
    let terminal = std::io::stdout().is_terminal();
    let format = args.format.unwrap_or(if terminal { Format::Table } else { Format::Csv });
    match print(&batches, format) {
        // the reader has seen enough (`| head`)
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}

fn print(batches: &[RecordBatch], format: Format) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table => {
            writeln!(out, "{}", datafusion::arrow::util::pretty::pretty_format_batches(batches)?)?;
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            writeln!(out, "{rows} row{}", if rows == 1 { "" } else { "s" })?;
        }
        Format::Csv => {
            let mut text = Vec::new();
            let mut writer = datafusion::arrow::csv::WriterBuilder::new().with_header(true).build(&mut text);
            for batch in batches {
                writer.write(batch).context("the result cannot be written as CSV (nested columns?)")?;
            }
            drop(writer);
            out.write_all(&text)?;
        }
        Format::Json => {
            let mut text = Vec::new();
            let mut writer = datafusion::arrow::json::LineDelimitedWriter::new(&mut text);
            let rows: Vec<&RecordBatch> = batches.iter().collect();
            writer.write_batches(&rows)?;
            writer.finish()?;
            drop(writer);
            out.write_all(&text)?;
        }
    }
    out.flush()?;
    Ok(())
}
