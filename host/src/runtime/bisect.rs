//! The rows of a batch that a plugin cannot survive, found by halving; and the batch without them.

use arrow_array::{ArrayRef, UInt32Array};
use millrace_core::limits::BISECTION_FAILURES_MAX;

use super::message::RunError;
use crate::plugin::{PluginError, Rejected};

/// The rows that make `attempt` fail by themselves, ascending, each with the plugin's own words. `attempt` is given row
/// numbers of the batch, ascending; after a failure it goes on with a new instance.
pub fn guilty_rows(
    total: usize,
    mut attempt: impl FnMut(&[u32]) -> Result<Result<(), PluginError>, RunError>,
) -> Result<Vec<Rejected>, RunError> {
    let mut guilty = Vec::new();
    let mut failures = 0;
    let all: Vec<u32> = (0_u32..).take(total).collect();
    let mut waiting: Vec<&[u32]> = vec![&all];
    while let Some(rows) = waiting.pop() {
        let Err(error) = attempt(rows)? else { continue };
        failures += 1;
        if failures > BISECTION_FAILURES_MAX {
            return Err(RunError::Plugin(format!(
                "{error}; {failures} parts of one batch of {total} rows made it fail, so the search for the rows was given \
                 up\nhint: see the first failures in the log; a plugin that refuses a row instead (`Reject`) costs less"
            )));
        }
        match rows {
            [row] if error.may_be_a_row() => guilty.push(Rejected { row: *row, reason: error.to_string() }),
            [_] => return Err(plugin_at_fault(&error)),
            rows => {
                let (left, right) = rows.split_at(rows.len() / 2);
                waiting.extend([right, left]);
            }
        }
    }
    Ok(guilty)
}

pub fn plugin_at_fault(error: &PluginError) -> RunError {
    let remedy = if error.may_be_a_row() {
        "with a corrected plugin or the former one"
    } else {
        "with a larger `memory_limit` or `backend = \"disk\"` in `[state]` (or a larger `memory` of the plugin), or with shorter \
         windows"
    };
    RunError::Plugin(format!(
        "{error}; a new instance failed in the same way, and no row can be blamed for it\nhint: nothing is lost: the next \
         start goes on from the last checkpoint, {remedy}"
    ))
}

pub fn take(column: &ArrayRef, rows: &[u32]) -> Result<ArrayRef, arrow_schema::ArrowError> {
    arrow_select::take::take(column, &UInt32Array::from(rows.to_vec()), None)
}

pub fn take_input(columns: &[Option<ArrayRef>], rows: &[u32]) -> Result<Vec<Option<ArrayRef>>, RunError> {
    Ok(columns.iter().map(|c| c.as_ref().map(|c| take(c, rows)).transpose()).collect::<Result<_, _>>()?)
}

pub fn pick(slots: &[u32], rows: &[u32]) -> Vec<u32> {
    rows.iter().filter_map(|row| slots.get(*row as usize).copied()).collect()
}
