//! End to end: the program as a user starts it, a real broker, real tables, and an oracle that shares no code with it.
//!
//! `cargo xtask test` builds the program first and runs all of this; `kafka::…` is left out where there is no Java.

mod fuzzed;
mod kafka;
mod local;
mod options;
mod plugin;
mod secrets;
mod transform_swaps;
mod transforms;
