//! `millrace rollback`: back to the version of a plugin that ran before.

use std::time::Duration;

use millrace_core::swap::{Phase, SwapRecord};

use super::reach::Reach;
use super::swap::{Follow, end};
use super::{Failure, Form};

#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    pub reach: Reach,
    pub operator: String,
    /// after its probation: the version that runs ends the windows that are open, the former one begins with the next
    #[arg(long)]
    pub drain: bool,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

pub fn run(args: &RollbackArgs) -> Result<(), Failure> {
    let run = args.reach.find()?;
    let drain: Vec<(String, String)> =
        args.drain.then(|| ("drain".to_owned(), "true".to_owned())).into_iter().collect();
    let below = format!("/operators/{}/rollback", args.operator);
    let record: SwapRecord = run.post(&below, &drain, None, Duration::from_secs(60))?;
    let record =
        Follow { run: &run, reach: &args.reach, format: args.format, a_rollback_is_meant: true }.to_end(record)?;
    end(&record, &args.reach, args.format, record.phase.is_active() || record.phase == Phase::RolledBack)
}
