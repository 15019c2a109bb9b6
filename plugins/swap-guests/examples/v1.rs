//! What the others differ from.

millrace_swap_guests::swap_counts! { version: "1.0.0" }
