//! The pure logic of Millrace: time, windows, groups, barriers, checkpoint and commit *decisions*.
//!
//! Nothing here does I/O: no tokio, wasmtime, rdkafka or iceberg stands in the dependency tree, so Cargo itself keeps
//! the world out, the crate compiles and tests in seconds, and a seeded simulation can run the real thing.
//!
//! In the order that data flows:
//!
//! | module | owns |
//! |---|---|
//! | [`schema`] | the types of a pipeline's columns, and their Arrow form |
//! | [`batch`] | what travels: rows, their event times, where they came from, how they change a result |
//! | [`watermark`] | event-time progress: per partition, per source, per operator input; idleness |
//! | [`key`] | the canonical bytes of a key, its hash, its key group |
//! | [`idleness`] | when a partition is idle; event time that goes on without events |
//! | [`window`] | which window an event belongs to; when a window is open, closed, expired |
//! | [`groups`] | (key, window) → slot in the accumulator |
//! | [`seen`] | which keys have been seen lately: deduplication |
//! | [`barrier`] | aligned checkpoints: which input may be read on |
//! | [`checkpoint`] | what a checkpoint says, and which one a restart trusts |
//! | [`commit`] | claims and fences on tables: may this commit go ahead? |
//! | [`limits`] | every bound of the system, by name |

pub mod barrier;
pub mod batch;
pub mod checkpoint;
pub mod commit;
pub mod groups;
pub mod idleness;
pub mod key;
pub mod limits;
pub mod schema;
pub mod seen;
pub mod watermark;
pub mod window;
