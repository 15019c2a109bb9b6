//! Plugins written with the SDK that the host's tests and the benchmark run, each in two forms: a component (the examples
//! of this package, which are these very files), and natively (the modules of this library).
#![cfg(not(target_arch = "wasm32"))]

pub mod clean;
pub mod counts_by_column;
pub mod counts_by_row;
pub mod counts_v1;
pub mod counts_v2;
pub mod counts_v3;
pub mod counts_v4;
pub mod every_type;
pub mod keep;
pub mod matched;
pub mod nothing;
