//! Works for a while, then panics.
#![allow(clippy::panic, reason = "a plugin that fails is what the tests are about")]

use std::sync::atomic::{AtomicU64, Ordering};

/// of this instance: a component has memory of its own
static ROWS: AtomicU64 = AtomicU64::new(0);

millrace_swap_guests::swap_stamps! {
    version: "1.0.4",
    stamp: 4,
    row: |_event| {
        let before = ROWS.fetch_add(1, Ordering::Relaxed);
        assert!(before < millrace_swap_guests::TRAPS_AFTER, "this version fails after {before} rows");
    },
}
