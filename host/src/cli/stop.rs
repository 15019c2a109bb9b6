//! `millrace stop`: ends a running pipeline and waits until it is gone.

use std::time::{Duration, Instant};

use super::reach::Reach;
use super::{Failure, savepoint};
use crate::api::model::{PipelineStatus, Stopping};

const ASK_EVERY: Duration = Duration::from_millis(200);
/// For the last checkpoint and its commits.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// take a savepoint into this folder first
    #[arg(long, value_name = "DIR")]
    pub savepoint: Option<String>,
    /// all windows give their results first, as at the end of a bounded run
    #[arg(long, conflicts_with = "savepoint")]
    pub drain: bool,
}

pub fn run(args: &StopArgs) -> Result<(), Failure> {
    let run = args.reach.find()?;
    if let Some(dir) = &args.savepoint {
        savepoint::take(&run, dir)?;
    }
    let name = &run.status.name;
    let drain: Vec<(String, String)> =
        args.drain.then(|| ("drain".to_owned(), "true".to_owned())).into_iter().collect();
    let _: Stopping = run.post("/stop", &drain, None, Duration::from_secs(30))?;
    let until = Instant::now() + PATIENCE;
    // another run may listen at the same address by then
    while run
        .get::<PipelineStatus>("")
        .is_ok_and(|now| (&now.incarnation, now.generation) == (&run.status.incarnation, run.status.generation))
    {
        if Instant::now() > until {
            return Err(Failure::Other(anyhow::anyhow!(
                "`{name}` still answers after {} s: it is stopping, but a checkpoint or a commit takes long\nhint: \
                 `millrace status {}`",
                PATIENCE.as_secs(),
                args.reach.again()
            )));
        }
        std::thread::sleep(ASK_EVERY);
    }
    println!("{name} no longer answers: it was told to take a checkpoint, commit and end");
    if args.drain {
        println!(
            "windows that were open have given their results; a later run opens those again for which more events come"
        );
    }
    Ok(())
}
