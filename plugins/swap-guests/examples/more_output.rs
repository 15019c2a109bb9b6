//! One more output column.

millrace_swap_guests::swap_counts! {
    version: "1.1.0",
    output: { events: i64 = |counts| counts.impressions + counts.clicks + counts.conversions },
}
