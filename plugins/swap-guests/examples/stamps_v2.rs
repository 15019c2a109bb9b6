//! The same, but for its stamp.

millrace_swap_guests::swap_stamps! { version: "2.0.0", stamp: 2 }
