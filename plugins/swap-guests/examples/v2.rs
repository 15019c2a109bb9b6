//! Counting rule v2: a click counts as two.

millrace_swap_guests::swap_counts! {
    version: "2.0.0",
    update: |counts, event| {
        counts.clicks += i64::from(event.event_type == "click");
    },
}
