//! Transforms: rows in, rows out, nothing kept. Map, filter, flat-map and refusal are all one function.
//!
//! ```
//! use millrace_plugin::prelude::*;
//!
//! #[derive(Input)]
//! struct Click<'a> { platform: Option<&'a str>, user_agent: &'a str }
//!
//! /// `platform` replaces the input's column; all others stay as they are.
//! #[derive(Output, Debug, PartialEq)]
//! struct Clean { platform: String }
//!
//! struct Cleaner;
//!
//! #[transform(name = "cleaner", version = "1.0.0")]
//! impl Transform for Cleaner {
//!     type Config = ();
//!     type Input<'a> = Click<'a>;
//!     type Output = Clean;
//!     fn new(_: &()) -> Self {
//!         Self
//!     }
//!     fn process(&self, click: Click<'_>) -> Result<Option<Clean>, Reject> {
//!         if click.user_agent.contains("bot") {
//!             return Ok(None); // dropped
//!         }
//!         let platform = click.platform.ok_or_else(|| Reject::new("no platform"))?; // to the dead letters
//!         Ok(Some(Clean { platform: platform.to_lowercase() }))
//!     }
//! }
//!
//! # fn main() {
//! let row = Cleaner.process(Click { platform: Some("iOS"), user_agent: "Safari" });
//! assert_eq!(row, Ok(Some(Clean { platform: "ios".into() })));
//! # }
//! ```
//!
//! A filter adds no column: leave `Output` away and return `bool`.
//!
//! ```
//! # use millrace_plugin::prelude::*;
//! # #[derive(Input)] struct Click<'a> { user_agent: &'a str }
//! #[derive(Default)]
//! struct NoBots;
//!
//! #[transform(name = "no-bots", version = "1.0.0")]
//! impl Transform for NoBots {
//!     type Input<'a> = Click<'a>;
//!     fn process(&self, click: Click<'_>) -> bool {
//!         !click.user_agent.contains("bot")
//!     }
//! }
//! # fn main() {}
//! ```

use crate::column::{Column, ColumnRef, Error, Field, Wanted, offset};
use crate::config::{self, Config};
use crate::input::InputRow;
use crate::output::{self, OutputRow};
use crate::plugin::{Info, Processed, Rejected, check_offered};

/// A transform by row. Write the `impl` under `#[transform(name = "…", version = "…")]`, which fills in the constants,
/// the last type, and what has a usual form: `Config = ()`, `Output = ()`, `new` by `Default`.
///
/// Rows are processed in any order and more than once after a failure: what a transform keeps in itself may make it
/// faster, but must not change its results. `process` may take `&self` or `&mut self`.
pub trait Transform: Sized + Send + 'static {
    const NAME: &'static str;
    /// semver
    const VERSION: &'static str;
    type Config: Config;
    type Input<'a>: InputRow<'a>;
    /// The columns that are added or replaced; the host appends the input's other ones. `()`: none.
    type Output: OutputRow;
    /// what `process` returns
    type Processed: Processed<Self::Output>;

    fn new(options: &Self::Config) -> Self;
    /// The rows that come of a row. They keep its event time.
    fn process(&mut self, row: Self::Input<'_>) -> Self::Processed;
}

/// What a transform takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub input: Vec<Wanted>,
    pub output: Vec<Field>,
}

/// Output row `i` came from input row `origins[i]`; origins never decrease. A row that gives several names itself
/// several times, one that is left out is not named. Every column has as many rows as there are origins.
#[derive(Clone, Debug, PartialEq)]
pub struct Transformed {
    pub columns: Vec<Column>,
    pub origins: Vec<u32>,
    pub rejected: Vec<Rejected>,
}

/// A transform by batch: the WIT interface in Rust. Implement it by hand for the last nanosecond, and [`TransformPlugin`]
/// with it; then [`export_transform!`](crate::export_transform) makes the component.
pub trait Transformer: Send + 'static {
    fn info() -> Info
    where
        Self: Sized;
    /// `config` is JSON (or empty); `offered` are the columns that the input has.
    fn open(config: &str, offered: &[Field]) -> Result<Self, Error>
    where
        Self: Sized;
    fn signature(&self) -> Signature;
    /// `columns` are those of the signature, in its order, each of `rows` rows (there may be none to count by).
    fn process(&mut self, columns: &[ColumnRef<'_>], rows: u32) -> Result<Transformed, Error>;
}

/// A type that can be exported as a component or run natively. `#[transform]` implements it.
pub trait TransformPlugin {
    type Transformer: Transformer;
}

/// Makes the crate a component of a type that implements [`TransformPlugin`](crate::transform::TransformPlugin); `#[transform]` writes this
/// for the row style. Natively it only checks the type.
#[macro_export]
macro_rules! export_transform {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Component = $crate::guest::transform::Component<$plugin>;
            $crate::guest::transform::bindings::export_world!(
                Component with_types_in $crate::guest::transform::bindings
            );
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::transform::exportable::<$plugin>();
    };
}

#[doc(hidden)]
pub const fn exportable<P: TransformPlugin>() {}

/// Lowers a [`Transform`] to a [`Transformer`].
pub struct Rows<T>(T);

impl<T: Transform> Transformer for Rows<T> {
    fn info() -> Info {
        Info { name: T::NAME.into(), version: T::VERSION.into(), config_schema: T::Config::schema().to_string() }
    }

    fn open(config: &str, offered: &[Field]) -> Result<Self, Error> {
        let options = config::parse(config).map_err(Error::Config)?;
        check_offered(&T::Input::wanted(), offered)?;
        Ok(Self(T::new(&options)))
    }

    fn signature(&self) -> Signature {
        Signature { input: T::Input::wanted(), output: T::Output::fields() }
    }

    fn process(&mut self, columns: &[ColumnRef<'_>], rows: u32) -> Result<Transformed, Error> {
        let reader = <T::Input<'_> as InputRow<'_>>::open(columns, rows as usize)?;
        let mut columns = output::columns::<T::Output>();
        let (mut origins, mut rejected) = (Vec::new(), Vec::new());
        for row in 0..rows as usize {
            let origin = offset(row);
            let processed = self.0.process(<T::Input<'_> as InputRow<'_>>::get(&reader, row));
            let verdict = processed.each(|out| {
                out.push(&mut columns.iter_mut());
                origins.push(origin);
            });
            if let Err(reject) = verdict {
                rejected.push(Rejected { row: origin, reason: reject.0 });
            }
        }
        Ok(Transformed { columns, origins, rejected })
    }
}
