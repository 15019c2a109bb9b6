//! State that an older version does not have, and nothing that says what it is then: no version's state can be migrated.
//! A click counts as three.

millrace_swap_guests::swap_counts! {
    version: "3.0.0",
    state: { score: f64 },
    update: |counts, event| {
        counts.score += event.revenue.unwrap_or(1.0);
        counts.clicks += 2 * i64::from(event.event_type == "click");
    },
}
