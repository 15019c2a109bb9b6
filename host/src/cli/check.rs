//! `millrace check`: everything that is wrong with a pipeline file, at once, and the graph.

use std::path::Path;

use super::open::{load, resolve};
use super::{Failure, Format};
use crate::spec;

pub fn run(file: &Path, format: Format) -> Result<(), Failure> {
    let loaded = load(file)?;
    let resolved = resolve(&loaded, None)?;
    match format {
        Format::Json => println!("{}", serde_json::json!({ "ok": true, "pipeline": loaded.pipeline.name })),
        Format::Table | Format::Csv => println!("{}", spec::graph(&loaded, &resolved.resolved)),
    }
    Ok(())
}
