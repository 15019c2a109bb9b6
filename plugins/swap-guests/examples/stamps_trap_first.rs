//! Panics at its first row.
#![allow(clippy::panic, reason = "a plugin that fails is what the tests are about")]

millrace_swap_guests::swap_stamps! {
    version: "1.0.3",
    stamp: 3,
    row: |event| { assert!(event.event_type.is_empty(), "this version fails at its first row") },
}
