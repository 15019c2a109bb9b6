//! Millrace: a streaming pipeline runtime whose logic is WebAssembly.
//!
//! In the order that data flows:
//!
//! | module | owns |
//! |---|---|
//! | [`spec`] | the pipeline file: parsed, checked, explained |
//! | [`source`] | messages in: Kafka, the generator |
//! | [`decode`] | bytes of many messages → one Arrow batch, plus the messages that failed |
//! | [`expr`] | SQL expressions over a batch's columns |
//! | [`plugin`] | batches through a sandboxed component (or the same logic natively) |
//! | [`runtime`] | tasks on threads, exchanges between them, barriers, the run from start to end |
//! | [`api`] | HTTP: what a run is doing, and why a window is open |
//! | [`capture`] | a plugin's failed call on disk, for `millrace replay` |
//! | [`checkpoint`] | the log of checkpoints and the state files, on any object store |
//! | [`catalog`] | Iceberg catalogs opened from the pipeline file, durable local storage |
//! | [`sink`] | rows out: Iceberg exactly once, Kafka, files, console |
//! | [`golden`] | golden cases: a plugin through the real operator, compared with what was accepted |
//! | [`laws`] | the laws of aggregation, checked on given and generated rows |
//! | [`query`] | SQL over the pipeline's catalogs |
//! | [`cli`] | the `millrace` command |

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "the numbers of tests are small"
    )
)]

pub mod api;
pub mod capture;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod decode;
pub mod expr;
pub mod failpoint;
pub mod golden;
pub mod laws;
pub mod plugin;
pub mod query;
pub mod runtime;
pub mod sink;
pub mod source;
pub mod spec;
