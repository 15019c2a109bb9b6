//! Arrow arrays ↔ the columns of the WIT. Both have the same memory layout, so that a column crosses with one memcpy per
//! buffer: [`lower`] borrows Arrow's buffers for a call into the guest, [`lift`] makes arrays of the vectors that come
//! back. The guest is not trusted: nothing that [`lift`] returns has not been checked.
//!
//! Never converts values: a column has exactly the Arrow form of [`millrace_core::schema::DataType::to_arrow`] (or, for
//! strings, a dictionary of it).

pub(super) mod lift;
pub(super) mod lower;

#[cfg(test)]
mod tests;
