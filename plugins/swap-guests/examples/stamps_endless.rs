//! Never comes back from its first row.

millrace_swap_guests::swap_stamps! {
    version: "1.0.5",
    stamp: 5,
    row: |event| { while std::hint::black_box(!event.event_type.is_empty()) {} },
}
