//! The pipeline file: parsed, checked, explained.

pub mod model;
