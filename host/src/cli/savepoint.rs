//! `millrace savepoint`: a checkpoint of a running pipeline, copied with all that it needs.

use std::path::Path;
use std::time::Duration;

use super::Failure;
use super::reach::{Reach, Run};
use crate::api::model::{Savepoint, SavepointRequest};

/// Copying state takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(3_600);

#[derive(Debug, clap::Args)]
pub struct SavepointArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// the folder, as the machine sees it that the pipeline runs on
    pub dir: String,
}

pub fn run(args: &SavepointArgs) -> Result<(), Failure> {
    take(&args.reach.find()?, &args.dir)
}

pub fn take(run: &Run, dir: &str) -> Result<(), Failure> {
    let folder = if dir.contains("://") {
        dir.to_owned()
    } else {
        let path = std::path::absolute(Path::new(dir)).map_err(|e| Failure::Usage(format!("{dir}: {e}")))?;
        path.to_str().ok_or_else(|| Failure::Usage(format!("{dir} is no UTF-8")))?.to_owned()
    };
    let body = serde_json::to_vec(&SavepointRequest { folder }).map_err(|e| Failure::Other(e.into()))?;
    let taken: Savepoint = run.post("/savepoints", &[], Some(("application/json", body)), PATIENCE)?;
    println!("savepoint of checkpoint {} in {}", taken.checkpoint, taken.folder);
    Ok(())
}
