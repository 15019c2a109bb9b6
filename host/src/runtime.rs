//! The run: tasks on threads of their own, exchanges between them, barriers, and the coordinator that makes checkpoints.
//!
//! ```text
//!   source task 0 ─┬─ by key group ─┬─▶ aggregate task 0 ─┬─▶ sink task (results)
//!   source task 1 ─┴────────────────┴─▶ aggregate task 1 ─┘
//!        └────────── by Iceberg partition ──────────────────▶ sink tasks (raw events)
//!        ▲                                                        │
//!        │ trigger barrier n                          acknowledge n
//!   coordinator: all acknowledged → publish checkpoint n → commit its sinks → retain
//! ```
//!
//! Every edge between two tasks is a bounded queue; a full one blocks the sender, so backpressure reaches the consumer,
//! and since the graph has no cycle nothing can wait for itself.
//!
//! | module | owns |
//! |---|---|
//! | [`message`] | what travels on an edge |
//! | [`edge`] | the bounded queues, the exchange that splits a batch by task, the aligned inbox |
//! | [`stats`] | counters and gauges of a run, by node |
//! | [`status`] | what each task says of itself: watermarks, windows, partitions |
//! | [`failures`] | what happens to a row that cannot be used: fail, skip, dead letter |
//! | [`sources`] | the sources of a run, started |
//! | [`source_task`] | partitions in order of event time → batches, watermarks, barriers |
//! | [`transforms`], [`transform_task`] | filter, set, select, plugin: row by row, without state |
//! | [`deduplicate_task`] | the first event of a key passes |
//! | [`aggregate_task`] | groups, plugin calls, results, state export |
//! | [`accumulator`] | the plugin's instance, and how it is brought back when it fails |
//! | [`versions`] | the version of a plugin that runs, and the one beside it |
//! | [`swaps`] | versions change places in all tasks of an operator |
//! | [`recorder`] | a failed call of a plugin, written down to be run again |
//! | [`bisect`] | the rows of a batch that a plugin cannot survive |
//! | [`sink_task`] | rows to a writer, prepared files to the coordinator |
//! | [`monitor`] | asks the brokers: new partitions, end offsets |
//! | [`control`] | what people can ask of a run |
//! | [`controller`] | checks it against the run, without touching it |
//! | [`coordinator`] | checkpoints and commits |
//! | [`read_state`] | a task's own groups out of a checkpoint's state files |
//! | [`restore`] | what a restart takes over from a checkpoint, or why not |
//! | [`begin`] | a start at a savepoint, and how one is taken |
//! | [`migration`] | whether a new version of a plugin takes the state of the former one, and in words why not |
//! | `what_ran` | a plugin that was swapped in goes on after a restart |
//! | [`plan`] | what a start would do with the last checkpoint |
//! | [`nodes`] | the real world's parts, made from the spec |
//! | `graph` | the queues of a run |
//! | `unite` | several inputs of one node, united by column name |
//! | `retry` | what time can heal is tried again |
//! | `assign` | which task reads which partition, from where |
//! | [`run`] | one run from start to end |
//! | [`progress`] | the line on the terminal |

pub mod accumulator;
pub mod aggregate_task;
mod assign;
mod beforehand;
pub mod begin;
pub mod bisect;
pub mod control;
pub mod controller;
pub mod coordinator;
pub mod deduplicate_task;
pub mod edge;
pub mod failures;
mod graph;
pub mod memory;
pub mod message;
pub mod migration;
pub mod monitor;
pub mod nodes;
pub mod plan;
pub mod progress;
pub mod read_state;
pub mod recorder;
pub mod restore;
mod retry;
pub mod run;
#[cfg(test)]
mod simulation;
pub mod sink_task;
pub mod source_task;
pub mod sources;
pub mod stats;
pub mod status;
pub mod swaps;
pub mod transform_task;
pub mod transforms;
mod unite;
pub mod versions;
mod what_ran;
