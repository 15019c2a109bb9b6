//! The two ways to write an aggregation: by row ([`Aggregation`], what an author writes) and by batch ([`Accumulator`],
//! what the boundary speaks; the row style is lowered to it by [`crate::rows`]).
//!
//! By row, with options and refusals; it is plain Rust, so it is tested as such:
//!
//! ```
//! use millrace_plugin::prelude::*;
//!
//! #[derive(Config)]
//! struct Options { #[config(default = 0.0)] at_least: f64 }
//!
//! #[derive(Input)]
//! struct Sale<'a> { customer: &'a str, amount: Option<f64>, at: Timestamptz }
//!
//! #[derive(State)]
//! struct Sales { at_least: f64, total: f64, customers: DistinctCount<str>, best: TopK<str>, last: Latest<String> }
//!
//! #[derive(Output, Debug, PartialEq)]
//! struct Report { total: f64, customers: i64, best: Vec<String>, last: Option<String> }
//!
//! #[aggregation(name = "sales", version = "1.0.0")]
//! impl Aggregation for Sales {
//!     type Config = Options;
//!     type Input<'a> = Sale<'a>;
//!     type Output = Report;
//!     fn new(options: &Options) -> Self {
//!         let customers = DistinctCount::new(Distinct::Exact);
//!         Self { at_least: options.at_least, total: 0.0, customers, best: TopK::new(100), last: Latest::default() }
//!     }
//!     fn update(&mut self, sale: Sale<'_>) -> Result<(), Reject> {
//!         let amount = sale.amount.ok_or_else(|| Reject::new("no amount"))?;
//!         if amount >= self.at_least {
//!             self.total += amount;
//!             self.customers.insert(sale.customer);
//!             self.best.insert(sale.customer);
//!             self.last.set(sale.at, sale.customer.into());
//!         }
//!         Ok(())
//!     }
//!     fn merge(&mut self, other: &Self) {
//!         self.total += other.total;
//!         self.customers.merge(&other.customers);
//!         self.best.merge(&other.best);
//!         self.last.merge(&other.last);
//!     }
//!     fn evaluate(&self, _: &Window) -> Report {
//!         let best = self.best.top(3).into_iter().map(|(customer, _)| customer).collect();
//!         Report { total: self.total, customers: self.customers.count(), best, last: self.last.get().cloned() }
//!     }
//! }
//!
//! # fn main() {
//! let mut sales = Sales::new(&Options { at_least: 1.0 });
//! let sale = |customer, amount| Sale { customer, amount, at: Timestamptz(7) };
//! assert_eq!(sales.update(sale("ann", Some(2.5))), Ok(()));
//! assert_eq!(sales.update(sale("bob", None)), Err(Reject::new("no amount")));
//! let window = Window { start: Timestamptz(0), end: Timestamptz(60_000_000), is_final: true };
//! let report = Report { total: 2.5, customers: 1, best: vec!["ann".into()], last: Some("ann".into()) };
//! assert_eq!(sales.evaluate(&window), report);
//! # }
//! ```

use crate::column::{Column, ColumnRef, Error, Field, Wanted};
use crate::config::Config;
use crate::input::InputRow;
use crate::migrate::Migration;
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

    /// the functions under `#[migrate]`, in their order
    const MIGRATIONS: &'static [Migration<Self>];

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

/// Where a state comes from, for [`Accumulator::migrate`] and the functions under `#[migrate]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// of the plugin
    pub name: String,
    pub version: String,
    /// JSON
    pub config: String,
    pub state: Vec<Field>,
}

/// An aggregation by batch, over many groups: the WIT interface in Rust, for those who want the last nanosecond. Implement
/// [`Plugin`] with it; then [`export_aggregation!`](crate::export_aggregation) makes the component.
///
/// ```text
///            row   0  1  2  3        slot (= group)   0       1       2
///   columns        a  b  c  d   ──▶                 [a c]    [b]     [d]
///   groups         0  1  0  2                         │ evaluate, state
///   total          3                                  ▼
///                                    result or state rows, each with its group
/// ```
///
/// - Group `g` lives in slot `g`, an index the host gives out and uses again after [`reset`](Self::reset). A slot that
///   was never updated is empty; it can be exported, evaluated and merged like any other.
/// - The host never calls two functions at once, and calls nothing after an error or a panic.
/// - States travel in parts and are put together in any order: folding is associative and commutative (unless the
///   signature says `ordered`), and an empty state changes nothing.
///
/// ```
/// use millrace_plugin::aggregation::{Accumulator, OutputRows, Plugin, Signature, StateChunk, Window};
/// use millrace_plugin::column::{Column, ColumnData, ColumnRef, DataRef, DataType, Error, Field, Wanted};
/// use millrace_plugin::plugin::{Info, Rejected};
///
/// #[derive(Default)]
/// struct Sums(Vec<i64>);
///
/// impl Sums {
///     /// Input, state and result are one column of numbers.
///     fn add(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<(), Error> {
///         self.0.resize(self.0.len().max(total as usize), 0);
///         let [ColumnRef { data: DataRef::Int64(values), .. }] = columns else {
///             return Err(Error::Input("one column of long is wanted".into()));
///         };
///         for (value, group) in values.iter().zip(groups) {
///             self.0[*group as usize] += value;
///         }
///         Ok(())
///     }
///
///     fn column(&self, groups: &[u32]) -> Vec<Column> {
///         let sums = groups.iter().map(|g| self.0.get(*g as usize).copied().unwrap_or(0)).collect();
///         vec![Column { data: ColumnData::Int64(sums), validity: None, rows: groups.len() }]
///     }
/// }
///
/// impl Accumulator for Sums {
///     fn info() -> Info {
///         Info { name: "sums".into(), version: "1.0.0".into(), config_schema: "{}".into() }
///     }
///     fn open(_config: &str, _offered: &[Field]) -> Result<Self, Error> {
///         Ok(Self::default())
///     }
///     fn signature(&self) -> Signature {
///         let field = Field::new("n", DataType::Int64, false);
///         let input = vec![Wanted { field: field.clone(), optional: false }];
///         Signature { input, state: vec![field.clone()], output: vec![field], ordered: false }
///     }
///     fn update(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<Vec<Rejected>, Error> {
///         self.add(columns, groups, total).map(|()| Vec::new())
///     }
///     fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), Error> {
///         sources.iter().zip(targets).for_each(|(s, t)| self.0[*t as usize] += self.0[*s as usize]);
///         Ok(())
///     }
///     fn merge(&mut self, state: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<(), Error> {
///         self.add(state, groups, total)
///     }
///     fn state(&mut self, groups: &[u32], _cursor: u64, _bytes_max: u64) -> Result<StateChunk, Error> {
///         Ok(StateChunk { columns: self.column(groups), groups: groups.to_vec(), next: None })
///     }
///     fn evaluate(&mut self, groups: &[u32], _windows: &[Window]) -> Result<OutputRows, Error> {
///         Ok(OutputRows { columns: self.column(groups), groups: None })
///     }
///     fn reset(&mut self, groups: &[u32]) -> Result<(), Error> {
///         groups.iter().for_each(|g| self.0[*g as usize] = 0);
///         Ok(())
///     }
///     fn size(&mut self) -> u64 {
///         8 * self.0.capacity() as u64
///     }
/// }
///
/// impl Plugin for Sums {
///     type Accumulator = Self;
/// }
/// millrace_plugin::export_aggregation!(Sums);
///
/// # fn main() {
/// let mut sums = Sums::open("", &[]).unwrap();
/// let column = ColumnRef { data: DataRef::Int64(&[1, 20, 300]), validity: None };
/// sums.update(&[column], &[0, 1, 0], 2).unwrap();
/// let out = sums.evaluate(&[1, 0], &[]).unwrap();
/// assert_eq!(out.columns[0].data, ColumnData::Int64(vec![20, 301]));
/// # }
/// ```
pub trait Accumulator: Send + 'static {
    /// Known without a configuration.
    fn info() -> Info
    where
        Self: Sized;

    /// Called once, first. `config` is JSON (or empty), `offered` are the columns that the input has. An
    /// [`Error::Config`] or [`Error::Input`] is shown to the person who wrote the pipeline.
    fn open(config: &str, offered: &[Field]) -> Result<Self, Error>
    where
        Self: Sized;

    /// Does not change after `open`.
    fn signature(&self) -> Signature;

    /// Row `i` of the columns (those of the signature, in its order) belongs to group `groups[i]`, which is below
    /// `total`. A row that is refused is named once and has left no trace in the state.
    fn update(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<Vec<Rejected>, Error>;

    /// Folds slot `sources[i]` into slot `targets[i]`, one after the other; the sources stay as they are.
    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), Error>;

    /// Folds exported rows in. Several may name one group; into an empty group they restore exactly what was exported.
    fn merge(&mut self, state: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<(), Error>;

    /// Exports groups, in chunks of about `bytes_max` bytes; a group may span rows and chunks. Changes nothing. The first
    /// cursor is 0, the others are what the chunk before gave as `next`, for the same groups and with nothing in between.
    fn state(&mut self, groups: &[u32], cursor: u64, bytes_max: u64) -> Result<StateChunk, Error>;

    /// The results of `groups[i]` in `windows[i]`. Changes nothing, and may be called often: early results, corrections.
    fn evaluate(&mut self, groups: &[u32], windows: &[Window]) -> Result<OutputRows, Error>;

    /// Empties groups and frees what they held.
    fn reset(&mut self, groups: &[u32]) -> Result<(), Error>;

    /// Bytes held in all: what the host weighs against the memory limit.
    fn size(&mut self) -> u64;

    /// Makes rows of this version's state of those of another version or configuration, one of each; none: it cannot.
    /// A group may have several rows, and they are merged afterwards. Never asked about a state of the same name, schema and
    /// configuration: that is taken as it is.
    fn migrate(&mut self, _origin: &Origin, _state: &[ColumnRef<'_>]) -> Result<Option<Vec<Column>>, Error> {
        Ok(None)
    }
}

/// A type that can be exported as a component or run natively. `#[aggregation]` implements it.
pub trait Plugin {
    type Accumulator: Accumulator;
}

/// Makes the crate a component of a type that implements [`Plugin`](crate::aggregation::Plugin); `#[aggregation]` writes this
/// for the row style. Natively it only checks the type.
#[macro_export]
macro_rules! export_aggregation {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Component = $crate::guest::aggregation::Component<$plugin>;
            $crate::guest::aggregation::bindings::export_world!(
                Component with_types_in $crate::guest::aggregation::bindings
            );
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::aggregation::exportable::<$plugin>();
    };
}

#[doc(hidden)]
pub const fn exportable<P: Plugin>() {}
