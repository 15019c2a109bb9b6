//! Options, one of which the tests keep secret.

millrace_swap_guests::swap_counts! {
    version: "1.1.0",
    options: { salt: String, pin: i64 } |options| {
        let _ = (&options.salt, options.pin);
    },
}
