//! The plugin boundary: one trait, a WASM and a native implementation, the same tests and benchmarks on both.
//!
//! One instance is one accumulator over many groups; group `g` lives in slot `g`. A call carries a batch and many
//! groups: never one event, never one key (DataFusion's `GroupsAccumulator` is the model).

use arrow_array::ArrayRef;
use millrace_core::schema::{Field, Schema};

mod arrow;
pub mod artifact;
mod bindings;
pub mod builtin;
pub mod engine;
pub mod limits;
pub mod native;
mod store;
#[cfg(test)]
mod tests;
mod wasi;
pub mod wasm;

pub use artifact::{Artifact, Kind};
pub use engine::{Compiler, PluginEngine};
pub use limits::{Capabilities, PluginLimits};
pub use wasm::{Inspection, Shape, WasmFactory, WasmJoinFactory, WasmTransformFactory, inspect, shape};

/// What a plugin says of itself once it has seen its configuration and the columns it is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// the host sends these columns only, in this order
    pub input: Vec<Wanted>,
    pub state: Schema,
    pub output: Schema,
    /// the result depends on the order of rows and merges
    pub ordered: bool,
}

/// A column that a plugin wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub field: Field,
    /// the plugin takes dictionary-encoded strings (as well)
    pub dictionary: bool,
    /// one that the input lacks arrives as missing
    pub optional: bool,
}

/// Name, version and configuration schema: known without a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub name: String,
    pub version: String,
    /// JSON Schema (2020-12)
    pub config_schema: String,
}

/// A row that the plugin refused; it has left no trace in the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub row: u32,
    pub reason: String,
}

/// A window as the plugin sees it: microseconds, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowUs {
    pub start: i64,
    pub end: i64,
}

/// Exported state: row `i` belongs to `groups[i]`; one group may take several rows.
#[derive(Clone, Debug)]
pub struct StateChunk {
    pub columns: Vec<ArrayRef>,
    pub groups: Vec<u32>,
    /// none: this was the last chunk
    pub next: Option<u64>,
}

/// Results: row `i` belongs to `groups[i]`; none = one row per group asked for, in that order.
#[derive(Clone, Debug)]
pub struct OutputRows {
    pub columns: Vec<ArrayRef>,
    pub groups: Option<Vec<u32>>,
}

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The binary is not a plugin that this host can run; says what was found and what to do.
    #[error("plugin {plugin}: {message}")]
    Load { plugin: String, message: String },
    /// The plugin refused its configuration or its input columns.
    #[error("plugin `{plugin}` refused {what}: {message}")]
    Refused { plugin: String, what: &'static str, message: String },
    /// It broke the interface: wrong column count, length or type, a group out of range.
    #[error("plugin `{plugin}` broke its contract in `{call}`: {message}")]
    Contract { plugin: String, call: &'static str, message: String },
    /// It trapped, ran past its deadline or out of memory. The instance is dead.
    #[error("plugin `{plugin}` failed in `{call}`: {message}")]
    Trap { plugin: String, call: &'static str, message: String, guest_log: Vec<String>, out_of_memory: bool },
}

impl PluginError {
    /// The instance is lost, and a new one may do better.
    pub fn is_dead_instance(&self) -> bool {
        matches!(self, Self::Contract { .. } | Self::Trap { .. })
    }

    /// A single row may be the reason. Memory is used up by all rows together.
    pub fn may_be_a_row(&self) -> bool {
        matches!(self, Self::Contract { .. } | Self::Trap { out_of_memory: false, .. })
    }
}

pub type Result<T> = std::result::Result<T, PluginError>;

/// One accumulator over many groups. After an error nothing can be assumed of it: it is discarded.
pub trait Aggregator: Send {
    fn signature(&self) -> &Signature;

    /// Row `i` belongs to group `groups[i]` < `total_groups`. `columns` are those of the signature, in its order, of
    /// exactly the types of [`millrace_core::schema::DataType::to_arrow`]; `None` where an optional one is missing.
    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>>;

    /// Folds slot `sources[i]` into slot `targets[i]`; the sources stay as they are.
    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()>;

    /// Folds exported state in; several rows may name one group; into an empty group it restores exactly.
    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()>;

    /// Exports state in chunks of about `max_bytes`; changes nothing. Start with cursor 0.
    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk>;

    /// Results; changes nothing. `is_final`: these windows have expired.
    fn evaluate(&mut self, groups: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows>;

    /// Empties these groups and frees what they held.
    fn reset(&mut self, groups: &[u32]) -> Result<()>;

    /// bytes held in all
    fn size(&mut self) -> Result<u64>;

    /// Row `i` out belongs to row `i` in; none = cannot.
    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>>;

    /// What the plugin counted (name, by how much) since the last call; at most
    /// [`limits::COUNTERS_MAX`] + 1 different names in an instance's life.
    fn take_counters(&mut self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// Bytes of memory that the instance occupies, used or not; 0 where it is the host's own. Linear memory never
    /// shrinks: far more than [`Aggregator::size`] is a reason to rebuild the instance from its state.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// What a transform takes and gives.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformSignature {
    /// the host sends these columns only, in this order
    pub input: Vec<Wanted>,
    pub output: Schema,
}

/// Output row `i` came from input row `origins[i]`; origins never decrease.
#[derive(Clone, Debug)]
pub struct Transformed {
    pub columns: Vec<ArrayRef>,
    pub origins: Vec<u32>,
    pub rejected: Vec<Rejected>,
}

/// Batch in, batch out, no state. After an error nothing can be assumed of it: it is discarded.
pub trait Transformer: Send {
    fn signature(&self) -> &TransformSignature;

    /// `columns` are those of the signature, in its order, of exactly the types of
    /// [`millrace_core::schema::DataType::to_arrow`]; `None` where an optional one is missing. All have `rows` rows.
    fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed>;

    /// see [`Aggregator::take_counters`]
    fn take_counters(&mut self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// see [`Aggregator::memory_bytes`]
    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// Makes instances of one transform plugin: a compiled component, or native code.
pub trait TransformerFactory: Send + Sync {
    fn info(&self) -> &Info;

    /// see [`AggregatorFactory::digest`]
    fn digest(&self) -> &str;

    /// `config` is JSON; `offered` are the columns that the input has.
    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Transformer>>;

    /// see [`AggregatorFactory::limits`]
    fn limits(&self) -> PluginLimits {
        PluginLimits::default()
    }
}

/// What a join takes of each side, and gives.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinSignature {
    pub left: Vec<Wanted>,
    pub right: Vec<Wanted>,
    pub output: Schema,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinSide {
    Left,
    Right,
}

/// Output row `i` came from pair (or unmatched row) `origins[i]`; origins never decrease. A pair without a row is not a
/// match.
#[derive(Clone, Debug)]
pub struct Joined {
    pub columns: Vec<ArrayRef>,
    pub origins: Vec<u32>,
}

/// Makes rows of pairs that the host has matched; no state. After an error nothing can be assumed of it: it is discarded.
pub trait Joiner: Send {
    fn signature(&self) -> &JoinSignature;

    /// Pair `i` is (`left_rows[i]`, `right_rows[i]`), ordered by right row, then left row. Columns as in
    /// [`Transformer::process`], `total_left` and `total_right` rows of them.
    fn pairs(
        &mut self,
        left: &[Option<ArrayRef>],
        right: &[Option<ArrayRef>],
        total_left: u32,
        total_right: u32,
        left_rows: &[u32],
        right_rows: &[u32],
    ) -> Result<Joined>;

    /// Rows of one side that can no longer match, for outer joins.
    fn unmatched(&mut self, side: JoinSide, columns: &[Option<ArrayRef>], rows: u32) -> Result<Joined>;

    /// see [`Aggregator::take_counters`]
    fn take_counters(&mut self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

/// Makes instances of one join plugin.
pub trait JoinerFactory: Send + Sync {
    fn info(&self) -> &Info;

    /// see [`AggregatorFactory::digest`]
    fn digest(&self) -> &str;

    /// `config` is JSON; `left` and `right` are the columns that the two inputs have.
    fn open(&self, config: &str, left: &Schema, right: &Schema) -> Result<Box<dyn Joiner>>;
}

/// Where a state comes from, for [`Aggregator::migrate`].
#[derive(Clone, Debug, PartialEq)]
pub struct StateOrigin {
    pub name: String,
    pub version: String,
    pub config: String,
    pub state: Schema,
}

/// Makes instances of one plugin: a compiled component, or native code.
pub trait AggregatorFactory: Send + Sync {
    fn info(&self) -> &Info;

    /// lower-case hex sha-256 of the bytes as given; a native plugin has a name of its own instead
    fn digest(&self) -> &str;

    /// `config` is JSON; `offered` are the columns that the input has.
    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>>;

    /// what its instances may use; native code has no sandbox
    fn limits(&self) -> PluginLimits {
        PluginLimits::default()
    }
}
