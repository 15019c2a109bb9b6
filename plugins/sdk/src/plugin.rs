//! What all kinds of plugins have in common: how they present themselves, how they refuse a row, and what the functions
//! that an author writes may return.

use crate::column::{Error, Field, Wanted};
use crate::output::OutputRow;

/// Name, version and options: known without a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub name: String,
    pub version: String,
    /// JSON Schema (2020-12)
    pub config_schema: String,
}

/// A row that the plugin refuses; it goes where the pipeline sends errors, with this reason. `?` makes one of any error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject(pub String);

impl Reject {
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl<E: std::error::Error> From<E> for Reject {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A refused row of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub row: u32,
    pub reason: String,
}

/// What `update` of an aggregation may return: nothing, or `Result<(), Reject>`.
#[diagnostic::on_unimplemented(
    message = "`update` cannot return `{Self}`",
    label = "return nothing, or `Result<(), Reject>`"
)]
pub trait Verdict {
    fn rejection(self) -> Option<Reject>;
}

impl Verdict for () {
    #[inline]
    fn rejection(self) -> Option<Reject> {
        None
    }
}

impl Verdict for Result<(), Reject> {
    #[inline]
    fn rejection(self) -> Option<Reject> {
        self.err()
    }
}

/// Result rows: one (`Output`), perhaps one (`Option<Output>`), or any number (`Vec<Output>`).
#[diagnostic::on_unimplemented(
    message = "rows of `{O}` are wanted, `{Self}` is returned",
    label = "return the `Output`, an `Option` of it, or a `Vec` of it"
)]
pub trait Results<O> {
    /// always exactly one row
    const ONE: bool;
    fn each(self, take: impl FnMut(O));
}

/// What `process` of a transform may return: the same as [`Results`], `bool` if there is no output column (keep the row
/// or not), or `Result<any of these, Reject>`.
#[diagnostic::on_unimplemented(
    message = "`process` cannot return `{Self}`",
    label = "not made of `{O}`, the `Output`",
    note = "it returns the `Output`, an `Option` or a `Vec` of it, `bool` if the `Output` is `()`, or `Result<any of these, Reject>`"
)]
pub trait Processed<O> {
    fn each(self, take: impl FnMut(O)) -> Result<(), Reject>;
}

macro_rules! results {
    ($($rust:ty, $one:literal, |$rows:ident, $take:ident| $each:expr;)+) => { $(
        impl<O: OutputRow> Results<O> for $rust {
            const ONE: bool = $one;
            #[inline]
            fn each(self, mut $take: impl FnMut(O)) {
                let $rows = self;
                $each;
            }
        }
        impl<O: OutputRow> Processed<O> for $rust {
            #[inline]
            fn each(self, take: impl FnMut(O)) -> Result<(), Reject> {
                Results::each(self, take);
                Ok(())
            }
        }
        impl<O: OutputRow> Processed<O> for Result<$rust, Reject> {
            #[inline]
            fn each(self, take: impl FnMut(O)) -> Result<(), Reject> {
                self.map(|rows| Results::each(rows, take))
            }
        }
    )+ };
}

results! {
    O, true, |row, take| take(row);
    Option<O>, false, |rows, take| rows.into_iter().for_each(&mut take);
    Vec<O>, false, |rows, take| rows.into_iter().for_each(&mut take);
}

impl Processed<()> for bool {
    #[inline]
    fn each(self, take: impl FnMut(())) -> Result<(), Reject> {
        Results::each(self.then_some(()), take);
        Ok(())
    }
}

impl Processed<()> for Result<bool, Reject> {
    #[inline]
    fn each(self, take: impl FnMut(())) -> Result<(), Reject> {
        self.and_then(|keep| Processed::each(keep, take))
    }
}

/// Whether the input has what is wanted of it. Types are compared by the host, which knows how to convert them.
pub(crate) fn check_offered(wanted: &[Wanted], offered: &[Field]) -> Result<(), Error> {
    let lacks = |w: &&Wanted| !w.optional && !offered.iter().any(|f| f.name == w.field.name);
    match wanted.iter().find(lacks) {
        None => Ok(()),
        Some(Wanted { field, .. }) => {
            Err(Error::Input(format!("column `{}` ({}) is missing", field.name, field.data_type)))
        }
    }
}
