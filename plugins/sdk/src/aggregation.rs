//! The two ways to write an aggregation: by row ([`Aggregation`], what an author writes) and by batch ([`Accumulator`],
//! what the boundary speaks; the row style is lowered to it by [`crate::rows`]).

use crate::column::{Column, ColumnRef, Error, Field, Wanted};
use crate::config::Config;
use crate::input::InputRow;
use crate::output::OutputRow;
use crate::plugin::{Info, Rejected, Results, Verdict};
use crate::state::State;
use crate::value::Timestamptz;

/// An aggregation by row: the state of one group, and what a row does to it. Write the `impl` under
/// `#[aggregation(name = "…", version = "…")]`, which fills in the constants and the last two types.
///
/// Merging must be associative and commutative, and an empty state (from `new`) must change nothing: states travel
/// in parts and are put together in any order.
pub trait Aggregation: State + 'static {
    const NAME: &'static str;
    /// semver
    const VERSION: &'static str;
    /// the result depends on the order of rows and merges
    const ORDERED: bool;
    type Config: Config;
    type Input<'a>: InputRow<'a>;
    type Output: OutputRow;
    /// what `update` returns: `()` or `Result<(), Reject>`
    type Update: Verdict;
    /// what `evaluate` returns: `Output`, `Option<Output>` or `Vec<Output>`
    type Evaluated: Results<Self::Output>;

    /// The state of a group that has seen no row.
    fn new(options: &Self::Config) -> Self;
    /// Takes a row in. A row that it rejects must have left no trace: reject before changing anything.
    fn update(&mut self, row: Self::Input<'_>) -> Self::Update;
    /// Folds another group's state in.
    fn merge(&mut self, other: &Self);
    /// The group's result in a window; may be called often.
    fn evaluate(&self, window: &Window) -> Self::Evaluated;
}

/// The window that a result is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub start: Timestamptz,
    /// exclusive
    pub end: Timestamptz,
    /// it has expired: this is the last result
    pub is_final: bool,
}

/// What an accumulator takes, keeps and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub input: Vec<Wanted>,
    pub state: Vec<Field>,
    pub output: Vec<Field>,
    pub ordered: bool,
}

/// Row `i` belongs to `groups[i]`; `next`: the cursor of the next chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChunk {
    pub columns: Vec<Column>,
    pub groups: Vec<u32>,
    pub next: Option<u64>,
}

/// `groups`: none = one row per group asked for, in that order.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputRows {
    pub columns: Vec<Column>,
    pub groups: Option<Vec<u32>>,
}

/// Where a state comes from, for [`Accumulator::migrate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub name: String,
    pub version: String,
    pub config: String,
    pub state: Vec<Field>,
}

/// An aggregation by batch, over many groups: group `g` lives in slot `g`. This is the WIT interface in Rust; its words
/// there are its specification. Implement it by hand for the last nanosecond, and [`Plugin`] with it.
pub trait Accumulator: Send + 'static {
    fn info() -> Info
    where
        Self: Sized;
    fn open(config: &str, offered: &[Field]) -> Result<Self, Error>
    where
        Self: Sized;
    fn signature(&self) -> Signature;
    fn update(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<Vec<Rejected>, Error>;
    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), Error>;
    fn merge(&mut self, state: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<(), Error>;
    fn state(&mut self, groups: &[u32], cursor: u64, bytes_max: u64) -> Result<StateChunk, Error>;
    fn evaluate(&mut self, groups: &[u32], windows: &[Window]) -> Result<OutputRows, Error>;
    fn reset(&mut self, groups: &[u32]) -> Result<(), Error>;
    fn size(&mut self) -> u64;
    /// Whether a state of that origin is taken as it is. Anything else is not migrated (yet).
    fn takes(&self, origin: &Origin) -> bool {
        origin.state == self.signature().state
    }
}

/// A type that can be exported as a component or run natively. `#[aggregation]` implements it.
pub trait Plugin {
    type Accumulator: Accumulator;
}
