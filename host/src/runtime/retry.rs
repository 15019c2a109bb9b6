//! What time can heal is tried again, with growing pauses in which a run can be told to stop.

use std::time::Duration;

use tracing::warn;

use super::message::{RunError, TaskId};
use crate::source::SourceError;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How often something that time can heal is tried before the run gives up.
const ATTEMPTS_MAX: u32 = 8;

/// `pause` waits and returns true if the run is to stop.
pub fn retry<T>(
    task: &TaskId,
    mut attempt: impl FnMut() -> Result<T, SourceError>,
    pause: &mut dyn FnMut(Duration) -> bool,
) -> Result<T, RunError> {
    let mut patience = BACKOFF_FIRST;
    let mut attempts = 1;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(SourceError::Transient(message)) if attempts < ATTEMPTS_MAX => {
                warn!(task = %task, attempts, "{message}; trying again in {patience:?}");
                if pause(patience) {
                    return Err(RunError::External(format!(
                        "stopped before source `{}` could be opened, the last checkpoint stands: {message}",
                        task.node
                    )));
                }
                patience = (patience * 2).min(BACKOFF_MAX);
                attempts += 1;
            }
            Err(error) => return Err(source_error(task, error)),
        }
    }
}

pub fn source_error(task: &TaskId, error: SourceError) -> RunError {
    match error {
        SourceError::OutOfRange { .. } => RunError::Spec(format!(
            "{error}\nhint: messages that the checkpoint still needs have expired; `--reset-offsets {}=earliest` goes on \
             with what is left and says how many are missing",
            task.node
        )),
        SourceError::Transient(m) | SourceError::Fatal(m) => RunError::External(format!("source `{}`: {m}", task.node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_the_attempts() {
        let task = TaskId { node: "events".into(), task: 0 };
        let mut attempts = 0;
        let failing = || {
            attempts += 1;
            Err::<(), _>(SourceError::Transient("no broker".into()))
        };
        let mut pauses = 0;
        let mut stops_in_the_second = |_| {
            pauses += 1;
            pauses == 2
        };
        let error = retry(&task, failing, &mut stops_in_the_second).expect_err("it never comes up").to_string();
        assert!(error.contains("stopped before source `events`") && error.contains("no broker"), "{error}");
        assert_eq!(attempts, 2);
    }
}
