//! One more column.

millrace_swap_guests::swap_stamps! { version: "1.1.0", stamp: 1, output: { rank: i64 = 7 } }
