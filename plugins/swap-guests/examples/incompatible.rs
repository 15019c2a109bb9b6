//! State that an older version does not have, and nothing that says what it is then: no version's state can be migrated.

millrace_swap_guests::swap_counts! {
    version: "3.0.0",
    state: { score: f64 },
    update: |counts, event| {
        counts.score += event.revenue.unwrap_or(1.0);
    },
}
