//! A small error in one campaign, for a shadow to find.

millrace_swap_guests::swap_counts! {
    version: "1.0.2",
    input: { campaign_id: &'a str },
    update: |counts, event| {
        if event.campaign_id.ends_with("c7") || event.campaign_id.ends_with("0007") {
            counts.revenue += event.revenue.unwrap_or(0.0) * 0.001;
        }
    },
}
