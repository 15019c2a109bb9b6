//! The same results from another binary.

millrace_swap_guests::swap_counts! { version: "1.0.1" }
