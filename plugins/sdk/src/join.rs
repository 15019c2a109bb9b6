//! Joins: the host has matched keys, windows and times; the plugin makes rows of the pairs.
//!
//! The interface is a draft (`0.1.0-dev`): no operator uses it yet.
//!
//! ```
//! use millrace_plugin::prelude::*;
//!
//! #[derive(Input)]
//! struct Impression<'a> { creative: &'a str, timestamp: Timestamptz }
//!
//! #[derive(Input)]
//! struct Click { timestamp: Timestamptz }
//!
//! #[derive(Output, Debug, PartialEq)]
//! struct Matched { creative: String, delay_us: Option<i64> }
//!
//! #[derive(Default)]
//! struct ClickThrough;
//!
//! #[join(name = "click-through", version = "1.0.0")]
//! impl Join for ClickThrough {
//!     type Left<'a> = Impression<'a>;
//!     type Right<'a> = Click;
//!     type Output = Matched;
//!     fn pair(&self, impression: Impression<'_>, click: Click) -> Option<Matched> {
//!         let delay_us = click.timestamp.0 - impression.timestamp.0;
//!         (delay_us >= 0).then(|| Matched { creative: impression.creative.into(), delay_us: Some(delay_us) })
//!     }
//!     fn unmatched(&self, row: OneSide<Impression<'_>, Click>) -> Option<Matched> {
//!         match row {
//!             OneSide::Left(impression) => Some(Matched { creative: impression.creative.into(), delay_us: None }),
//!             OneSide::Right(_) => None,
//!         }
//!     }
//! }
//!
//! # fn main() {
//! let impression = Impression { creative: "spring", timestamp: Timestamptz(5) };
//! assert_eq!(ClickThrough.pair(impression, Click { timestamp: Timestamptz(3) }), None);
//! # }
//! ```

use crate::column::{Column, ColumnRef, Error, Field, Wanted, offset};
use crate::config::{self, Config};
use crate::input::InputRow;
use crate::output::{self, OutputRow};
use crate::plugin::{Info, Results, check_offered};

/// A join by row. Write the `impl` under `#[join(name = "…", version = "…")]`, which fills in the constants, the last
/// two types, and what has a usual form: `Config = ()`, `new` by `Default`, no rows for what is unmatched.
pub trait Join: Sized + Send + 'static {
    const NAME: &'static str;
    /// semver
    const VERSION: &'static str;
    type Config: Config;
    type Left<'a>: InputRow<'a>;
    type Right<'a>: InputRow<'a>;
    type Output: OutputRow;
    /// what `pair` returns: `Output`, `Option<Output>` or `Vec<Output>`
    type Paired: Results<Self::Output>;
    /// what `unmatched` returns: the same choice
    type Unmatched: Results<Self::Output>;

    fn new(options: &Self::Config) -> Self;
    /// The rows of a pair. One without a row is not a match.
    fn pair(&self, left: Self::Left<'_>, right: Self::Right<'_>) -> Self::Paired;
    /// The rows of a row that has found no match and cannot any more, in an outer join.
    fn unmatched(&self, row: OneSide<Self::Left<'_>, Self::Right<'_>>) -> Self::Unmatched;
}

/// A row of the left or of the right input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneSide<L, R> {
    Left(L),
    Right(R),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// What a join takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub left: Vec<Wanted>,
    pub right: Vec<Wanted>,
    pub output: Vec<Field>,
}

/// Output row `i` came from pair `origins[i]`, or, of unmatched rows, from row `origins[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    pub columns: Vec<Column>,
    pub origins: Vec<u32>,
}

/// A join by batch: the WIT interface in Rust. Implement it by hand for the last nanosecond, and [`JoinPlugin`] with it;
/// then [`export_join!`](crate::export_join) makes the component.
pub trait Joiner: Send + 'static {
    fn info() -> Info
    where
        Self: Sized;
    fn open(config: &str, left: &[Field], right: &[Field]) -> Result<Self, Error>
    where
        Self: Sized;
    fn signature(&self) -> Signature;
    /// Pair `i` is (`left_rows[i]`, `right_rows[i]`), ordered by right row, then left row; the columns of the sides have
    /// `total_left` and `total_right` rows.
    fn pairs(
        &mut self,
        left: &[ColumnRef<'_>],
        right: &[ColumnRef<'_>],
        total_left: u32,
        total_right: u32,
        left_rows: &[u32],
        right_rows: &[u32],
    ) -> Result<Joined, Error>;
    /// `rows`: how many there are; there may be no column to count by.
    fn unmatched(&mut self, side: Side, columns: &[ColumnRef<'_>], rows: u32) -> Result<Joined, Error>;
}

/// A type that can be exported as a component or run natively. `#[join]` implements it.
pub trait JoinPlugin {
    type Joiner: Joiner;
}

/// Makes the crate a component of a type that implements [`JoinPlugin`](crate::join::JoinPlugin); `#[join]` writes this
/// for the row style. Natively it only checks the type.
#[macro_export]
macro_rules! export_join {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Component = $crate::guest::join::Component<$plugin>;
            $crate::guest::join::bindings::export_world!(
                Component with_types_in $crate::guest::join::bindings
            );
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::join::exportable::<$plugin>();
    };
}

#[doc(hidden)]
pub const fn exportable<P: JoinPlugin>() {}

/// Lowers a [`Join`] to a [`Joiner`].
pub struct Pairs<J>(J);

/// Reading past the end would give empty values.
fn check_rows(side: &str, rows: &[u32], total: u32) -> Result<(), Error> {
    match rows.iter().find(|row| **row >= total) {
        None => Ok(()),
        Some(row) => Err(Error::Input(format!("a pair names {side} row {row} of {total}"))),
    }
}

/// Result rows on their way out.
struct Out {
    columns: Vec<Column>,
    origins: Vec<u32>,
}

impl Out {
    fn new<O: OutputRow>() -> Self {
        Self { columns: output::columns::<O>(), origins: Vec::new() }
    }

    fn push<O: OutputRow>(&mut self, origin: usize, rows: impl Results<O>) {
        rows.each(|row| {
            row.push(&mut self.columns.iter_mut());
            self.origins.push(offset(origin));
        });
    }

    fn finish(self) -> Joined {
        Joined { columns: self.columns, origins: self.origins }
    }
}

impl<J: Join> Joiner for Pairs<J> {
    fn info() -> Info {
        Info { name: J::NAME.into(), version: J::VERSION.into(), config_schema: J::Config::schema().to_string() }
    }

    fn open(config: &str, left: &[Field], right: &[Field]) -> Result<Self, Error> {
        let options = config::parse(config).map_err(Error::Config)?;
        for (side, wanted, offered) in [("left", J::Left::wanted(), left), ("right", J::Right::wanted(), right)] {
            check_offered(&wanted, offered).map_err(|e| Error::Input(format!("{side}: {e}")))?;
        }
        Ok(Self(J::new(&options)))
    }

    fn signature(&self) -> Signature {
        Signature { left: J::Left::wanted(), right: J::Right::wanted(), output: J::Output::fields() }
    }

    fn pairs(
        &mut self,
        left: &[ColumnRef<'_>],
        right: &[ColumnRef<'_>],
        total_left: u32,
        total_right: u32,
        left_rows: &[u32],
        right_rows: &[u32],
    ) -> Result<Joined, Error> {
        if left_rows.len() != right_rows.len() {
            return Err(Error::Input(format!("{} left rows for {} right ones", left_rows.len(), right_rows.len())));
        }
        check_rows("left", left_rows, total_left)?;
        check_rows("right", right_rows, total_right)?;
        let left = <J::Left<'_> as InputRow<'_>>::open(left, total_left as usize)?;
        let right = <J::Right<'_> as InputRow<'_>>::open(right, total_right as usize)?;
        let mut out = Out::new::<J::Output>();
        for (pair, (l, r)) in left_rows.iter().zip(right_rows).enumerate() {
            let left = <J::Left<'_> as InputRow<'_>>::get(&left, *l as usize);
            let right = <J::Right<'_> as InputRow<'_>>::get(&right, *r as usize);
            out.push(pair, self.0.pair(left, right));
        }
        Ok(out.finish())
    }

    fn unmatched(&mut self, side: Side, columns: &[ColumnRef<'_>], rows: u32) -> Result<Joined, Error> {
        let rows = rows as usize;
        let mut out = Out::new::<J::Output>();
        match side {
            Side::Left => {
                let reader = <J::Left<'_> as InputRow<'_>>::open(columns, rows)?;
                for row in 0..rows {
                    let left = <J::Left<'_> as InputRow<'_>>::get(&reader, row);
                    out.push(row, self.0.unmatched(OneSide::Left(left)));
                }
            }
            Side::Right => {
                let reader = <J::Right<'_> as InputRow<'_>>::open(columns, rows)?;
                for row in 0..rows {
                    let right = <J::Right<'_> as InputRow<'_>>::get(&reader, row);
                    out.push(row, self.0.unmatched(OneSide::Right(right)));
                }
            }
        }
        Ok(out.finish())
    }
}
