//! Bytes of many messages in, one Arrow batch plus the failed messages out. One implementation per format.
//!
//! A message that does not decode costs only itself: the others of the batch are kept, in order.

use arrow_array::RecordBatch;

use crate::source::RawMessage;

pub mod json;

pub trait Decoder: Send {
    /// Decodes as many messages as it is given. Never fails as a whole.
    fn decode(&mut self, messages: &[RawMessage<'_>]) -> Decoded;
}

/// What became of a slice of messages.
#[derive(Debug)]
pub struct Decoded {
    /// the schema's columns, in its order, one row per accepted message
    pub rows: RecordBatch,
    /// event time of each row, milliseconds (floored)
    pub event_time_ms: Vec<i64>,
    /// the offset of each row's message
    pub offsets: Vec<i64>,
    pub failed: Vec<Failed>,
}

/// A message that did not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// index into the messages given
    pub index: usize,
    /// says which column, what was found, what was expected
    pub reason: String,
}
