//! An option that may change while its state goes on.

millrace_swap_guests::swap_counts! {
    version: "1.1.3",
    options: { step: i64 } |options| {
        let _ = options.step;
    },
    #[state(any_config)]
}
