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
//! | [`slots`] | slots of the accumulator: free, touched since when |
//! | [`groups`] | (key, window) → slot in the accumulator |
//! | [`due`] | which groups give their result now, and what their rows do to the table |
//! | [`ledger`] | what has been given of each group of a window |
//! | [`panes`] | tumbling and sliding windows: which open, close, expire, which groups have changed since |
//! | [`partials`] | what consecutive sliding windows share |
//! | [`sessions`] | session windows and the global one, a group at a time |
//! | [`cut`] | whose windows are whose where one version of a plugin follows another |
//! | [`windower`] | any kind of window behind one face |
//! | [`seen`] | which keys have been seen lately: deduplication |
//! | [`barrier`] | aligned checkpoints: which input may be read on |
//! | [`checkpoint`] | what a checkpoint says, and which one a restart trusts |
//! | [`commit`] | claims and fences on tables: may this commit go ahead? |
//! | [`swap`] | what is known of a swap of a plugin |
//! | [`limits`] | every bound of the system, by name |

pub mod barrier;
pub mod batch;
pub mod checkpoint;
pub mod commit;
pub mod cut;
pub mod due;
pub mod groups;
pub mod idleness;
pub mod key;
pub mod ledger;
pub mod limits;
pub mod panes;
pub mod partials;
pub mod schema;
pub mod seen;
pub mod sessions;
pub mod slots;
pub mod swap;
pub mod watermark;
pub mod window;
pub mod windower;
