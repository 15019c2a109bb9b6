//! Bounded tries with growing pauses, for what time can heal.

use std::future::Future;
use std::time::Duration;

use super::error::{CheckpointError, Class, Result, classify, one_line};

const NOT_THERE: &str = "the bucket or folder is not there. hint: create it, or correct `checkpoint.location`";

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub tries_max: u32,
    pub first_pause_ms: u64,
    pub pause_max_ms: u64,
}

impl Default for Backoff {
    /// About 20 seconds in all, on top of the retries inside the store's own client.
    fn default() -> Self {
        Self { tries_max: 8, first_pause_ms: 100, pause_max_ms: 5_000 }
    }
}

impl Backoff {
    /// The pause after the given try, counted from 1.
    pub(super) async fn pause(&self, after_try: u32) {
        let doubled = self.first_pause_ms.saturating_mul(1u64 << after_try.saturating_sub(1).min(16));
        tokio::time::sleep(Duration::from_millis(doubled.min(self.pause_max_ms))).await;
    }
}

/// Names the location in errors, and tries again.
#[derive(Clone, Debug)]
pub(super) struct Retrying {
    pub backoff: Backoff,
    pub location: String,
}

impl Retrying {
    /// `Ok(None)`: the object is not there.
    pub async fn run<T, F>(&self, doing: &str, mut attempt: impl FnMut() -> F) -> Result<Option<T>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match attempt().await {
                Ok(value) => return Ok(Some(value)),
                Err(error) => error,
            };
            match classify(&error) {
                Class::Missing => return Ok(None),
                Class::Transient | Class::NoSpace if tries < self.backoff.tries_max => {
                    tracing::warn!(location = %self.location, doing, tries, error = %one_line(&error), "trying again");
                    self.backoff.pause(tries).await;
                }
                _ => return Err(self.error(doing, tries, &error)),
            }
        }
    }

    /// For what must be there: writing. (A bucket that does not exist answers "not found" to a PUT.)
    pub async fn run_there<T, F>(&self, doing: &str, attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.run(doing, attempt).await?.ok_or_else(|| CheckpointError::Unusable {
            location: self.location.clone(),
            doing: doing.to_owned(),
            why: NOT_THERE.to_owned(),
        })
    }

    pub fn error(&self, doing: &str, tries: u32, error: &object_store::Error) -> CheckpointError {
        let (location, doing, why) = (self.location.clone(), doing.to_owned(), one_line(error));
        match classify(error) {
            Class::Denied => CheckpointError::Denied { location, doing, why },
            Class::NoSpace => CheckpointError::NoSpace { location, doing, why },
            Class::Transient => CheckpointError::Unreachable { location, doing, tries, last: why },
            Class::Missing => CheckpointError::Unusable { location, doing, why: NOT_THERE.to_owned() },
            Class::Exists | Class::Hopeless => CheckpointError::Unusable { location, doing, why },
        }
    }
}
