//! Another binary of `salted`.

millrace_swap_guests::swap_counts! {
    version: "1.1.1",
    options: { salt: String, pin: i64 } |options| {
        let _ = (&options.salt, options.pin);
    },
}
