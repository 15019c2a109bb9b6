//! Plugins as WebAssembly components: one file per kind, and what they share.
//!
//! Owns the running instances: one `Store` each, with its own memory, limits and deadline, thrown away after the first
//! failure (a trap poisons the whole store). Compiling is [`super::engine`]'s part, translating columns
//! [`super::arrow`]'s, and what a guest may call is in [`super::store`]. Nothing a guest returns leaves here unchecked.
//!
//! ```text
//! Artifact ──compile──▶ Prepared (InstancePre, Info) ──open──▶ WasmAggregator, … (Store, instance, Signature)
//!                          ▲                                          │ trap, deadline, contract broken
//!                          └────────── a fresh instance ◀─────────────┘ the store is dropped
//! ```

mod aggregation;
mod columns;
mod inspect;
mod instance;
mod join;
mod transform;

pub use aggregation::WasmFactory;
pub use inspect::{Inspection, Shape, inspect, shape};
pub use join::WasmJoinFactory;
pub use transform::WasmTransformFactory;

#[cfg(test)]
pub(crate) mod tests;
