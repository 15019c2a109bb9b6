//! Says what it was given, as it fails.
#![allow(clippy::panic, reason = "a plugin that fails is what the tests are about")]

millrace_swap_guests::swap_counts! {
    version: "1.1.2",
    options: { salt: String, pin: i64 } |options| {
        assert!(options.salt.is_empty(), "this version says its options: {}, {}", options.salt, options.pin);
    },
}
