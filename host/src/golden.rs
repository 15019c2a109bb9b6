//! Golden cases: a plugin is driven through the real operator, and what comes out is compared with what a person
//! accepted. No broker, no pipeline file, no table.
//!
//! ```text
//!   tests/NAME.toml ─ case ─▶ Case ─ run ─▶ operator (queues, watermarks, windows, end of time) ─▶ Outcome by step
//!                               │                          1 task │ 2 tasks │ stopped and restored in the middle
//!                               └─ expect, rejected, late ─▶ compare ─▶ differences, or update ─▶ the file, rewritten
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`case`] | the file: read, checked, explained |
//! | [`rows`] | rows as JSON values (from TOML, JSONL, CSV) to batches and back |
//! | [`operator`] | the operator's tasks with their queues, fed step by step |
//! | [`run`] | a case through the operator, in every way that must give the same |
//! | [`transform`] | the same for transforms, which need no operator: a batch in, a batch out |
//! | [`table`] | result rows as text cells: sorted, compared, shown |
//! | [`compare`] | what differs, for a person |
//! | [`update`] | the actual rows written into the file, the rest of it left alone |

pub mod case;
pub mod compare;
pub mod operator;
pub mod rows;
pub mod run;
pub mod table;
pub mod transform;
pub mod update;

pub use case::{Case, Step};
pub use compare::{Difference, compare};
pub use run::{Outcome, Subject};

#[cfg(test)]
mod tests;
