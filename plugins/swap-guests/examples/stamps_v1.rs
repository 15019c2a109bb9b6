//! The version that runs at first.

millrace_swap_guests::swap_stamps! { version: "1.0.0", stamp: 1 }
