//! Write Millrace plugins in Rust: a struct for the state, one for the input row, one for the result, and the functions
//! between them.
//!
//! ```
//! use millrace_plugin::prelude::*;
//!
//! #[derive(Input)]
//! struct Sale<'a> { customer: &'a str, amount: Option<f64> }
//!
//! #[derive(State, Default)]
//! struct Sales { total: f64, customers: DistinctCount<str> }
//!
//! #[derive(Output)]
//! struct Report { total: f64, customers: i64 }
//!
//! #[aggregation(name = "sales", version = "1.0.0")]
//! impl Aggregation for Sales {
//!     type Config = ();
//!     type Input<'a> = Sale<'a>;
//!     type Output = Report;
//!     fn update(&mut self, sale: Sale<'_>) {
//!         self.total += sale.amount.unwrap_or(0.0);
//!         self.customers.insert(sale.customer);
//!     }
//!     fn merge(&mut self, other: &Self) {
//!         self.total += other.total;
//!         self.customers.merge(&other.customers);
//!     }
//!     fn evaluate(&self, _window: &Window) -> Report {
//!         Report { total: self.total, customers: self.customers.count() }
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! `#[derive(Input)]`, `State`, `Output` and `Config` read the struct's fields; [`aggregation`], [`transform`] and [`join`]
//! show each kind whole. What a field may be:
//!
//! | column | input | state and result |
//! |---|---|---|
//! | `boolean`, `int`, `long`, `float`, `double` | `bool`, `i32`, `i64`, `f32`, `f64` | the same |
//! | `decimal(P,S)`, `date`, `timestamp`, `timestamptz` | [`Decimal<P, S>`](value::Decimal), [`Date`](value::Date), [`Timestamp`](value::Timestamp), [`Timestamptz`](value::Timestamptz) | the same |
//! | `string`, `binary` | `&str`, `&[u8]` | `String`, `Vec<u8>` |
//! | `list<long>`, `list<double>`, `list<string>` | `&[i64]`, `&[f64]`, [`Strings`](input::Strings) | `Vec<i64>`, `Vec<f64>`, `Vec<String>` |
//! | with nulls | an `Option` of these; `#[input(optional)]` lets the column be missing | an `Option` of these |
//! | several columns | | state only: [`DistinctCount`](distinct::DistinctCount), [`TopK`](topk::TopK), [`Latest`](by_time::Latest), [`Earliest`](by_time::Earliest) |
//!
//! # Options
//!
//! ```
//! use millrace_plugin::prelude::*;
//!
//! #[derive(Config)]
//! struct Options {
//!     #[config(default = 10)]
//!     top: u32,
//!     /// may be left out
//!     ignored: Option<Vec<String>>,
//!     unique_users: Distinct,
//! }
//! # fn main() {
//! let options: Options = millrace_plugin::config::parse(r#"{"unique_users": "hll"}"#).unwrap();
//! assert_eq!((options.top, options.ignored, options.unique_users), (10, None, Distinct::Hll));
//! let error = millrace_plugin::config::parse::<Options>(r#"{"unique_users": "some"}"#).err();
//! assert_eq!(error.unwrap(), r#"option `unique_users`: "exact" or "hll" is wanted, found "some""#);
//! # }
//! ```
//!
//! # Testing
//!
//! A plugin is plain Rust: with the crate type `["cdylib", "rlib"]`, `cargo test` calls its functions natively. What the
//! host does with it (batches, windows, exported state) is behind [`Plugin`](aggregation::Plugin):
//!
//! ```
//! # use millrace_plugin::prelude::*;
//! # #[derive(Input)] struct Row { n: i64 }
//! # #[derive(State, Default)] struct Total { n: i64 }
//! # #[derive(Output)] struct Report { n: i64 }
//! # #[aggregation(name = "total", version = "1.0.0")]
//! # impl Aggregation for Total {
//! #     type Input<'a> = Row;
//! #     type Output = Report;
//! #     fn update(&mut self, row: Row) { self.n += row.n; }
//! #     fn merge(&mut self, other: &Self) { self.n += other.n; }
//! #     fn evaluate(&self, _: &Window) -> Report { Report { n: self.n } }
//! # }
//! use millrace_plugin::aggregation::{Accumulator, Plugin};
//! use millrace_plugin::column::{ColumnData, ColumnRef, DataRef, DataType, Field};
//!
//! # fn main() {
//! let offered = [Field::new("n", DataType::Int64, false)];
//! let mut total = <Total as Plugin>::Accumulator::open("", &offered).unwrap();
//! let rows = ColumnRef { data: DataRef::Int64(&[1, 2, 3]), validity: None };
//! total.update(&[rows], &[0, 1, 0], 2).unwrap();
//! let state = total.state(&[0, 1], 0, 1 << 20).unwrap();
//! assert_eq!(state.columns[0].data, ColumnData::Int64(vec![4, 2]));
//! # }
//! ```
//!
//! A panic ends the instance; its message and place reach the host's log and the error.
//!
//! # Modules
//!
//! In the order that data flows:
//!
//! | module | owns |
//! |---|---|
//! | `guest` (wasm32 only) | the component's exports and imports, the panic hook |
//! | [`column`] | columns in Arrow's layout: borrowed on the way in, owned on the way out |
//! | [`config`] | options: JSON Schema, parsing, errors |
//! | [`input`] | column → value of a row |
//! | [`aggregation`] | [`Aggregation`](aggregation::Aggregation) by row, [`Accumulator`](aggregation::Accumulator) by batch |
//! | [`rows`] | lowers the one to the other |
//! | [`transform`] | [`Transform`](transform::Transform) by row, [`Transformer`](transform::Transformer) by batch |
//! | [`join`] | [`Join`](join::Join) by row, [`Joiner`](join::Joiner) by batch (a draft) |
//! | [`plugin`] | what all kinds share: refusals, and what functions may return |
//! | [`state`] | state field ↔ typed columns |
//! | [`migrate`] | old state → new state: the rules, and why not |
//! | [`distinct`] | distinct counts, exact (interned strings) and HyperLogLog |
//! | [`topk`] | the most frequent values, with a bound of the error |
//! | [`by_time`] | the value at the earliest or latest time |
//! | [`output`] | results → columns |

// The derives write paths that begin with `::millrace_plugin`; this makes them work in this crate's own tests, too.
#[allow(unused_extern_crates, reason = "used where a derive is used within this crate")]
extern crate self as millrace_plugin;

pub mod aggregation;
pub mod by_time;
pub mod column;
pub mod config;
pub mod distinct;
#[cfg(target_arch = "wasm32")]
pub mod guest;
pub mod host;
pub mod input;
pub mod join;
pub mod migrate;
pub mod output;
pub mod plugin;
pub mod rows;
pub mod state;
pub mod topk;
pub mod transform;
pub mod value;

/// All that a plugin usually needs.
pub mod prelude {
    pub use crate::aggregation::{Aggregation, Origin, Window};
    pub use crate::by_time::{Earliest, Latest};
    pub use crate::distinct::{Distinct, DistinctCount};
    pub use crate::host::{Level, count, log};
    pub use crate::input::Strings;
    pub use crate::join::{Join, OneSide};
    pub use crate::plugin::Reject;
    pub use crate::topk::TopK;
    pub use crate::transform::Transform;
    pub use crate::value::{Date, Decimal, Timestamp, Timestamptz};
    pub use millrace_plugin_macros::{Config, Input, Output, State, aggregation, join, migrate, transform};
}

/// What the derives' expansions name; not for use by hand.
#[doc(hidden)]
pub mod export {
    pub use serde_json;
}
