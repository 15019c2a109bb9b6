//! State that an older version does not have, and what it is then; the results are the same.

millrace_swap_guests::swap_counts! {
    version: "1.2.0",
    state: { #[state(default)] others: i64 },
    update: |counts, event| {
        counts.others += i64::from(!matches!(event.event_type, "impression" | "click" | "conversion"));
    },
}
