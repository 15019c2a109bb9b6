//! `swap-stamps`, a transform in many versions: each row says which of them has made it.
//!
//! | example | version | stamp | differs in |
//! |---|---|---|---|
//! | `stamps_v1` | 1.0.0 | 1 | nothing |
//! | `stamps_v2` | 2.0.0 | 2 | nothing but its stamp |
//! | `stamps_more_output` | 1.1.0 | 1 | one more output column, `rank` |
//! | `stamps_trap_first` | 1.0.3 | 3 | panics at its first row |
//! | `stamps_trap_later` | 1.0.4 | 4 | panics after [`TRAPS_AFTER`](crate::TRAPS_AFTER) rows |
//! | `stamps_endless` | 1.0.5 | 5 | never comes back from its first row |
//!
//! An impression or a click is a row, a conversion two. The columns are `stamp` (long) and `worth` (double): the revenue, or
//! one, as many times as the stamp says. Option: `stamp`, in place of the version's own.

/// A version of the plugin; see [`swap_counts!`](crate::swap_counts).
///
/// ```text
/// swap_stamps! {
///     version: "1.0.0",
///     stamp: 1,
///     output: { rank: i64 = 7 },        // more columns to give
///     row: |event| { … },               // done for each row before anything else
/// }
/// ```
#[macro_export]
macro_rules! swap_stamps {
    (
        version: $version:tt,
        stamp: $stamp:tt
        $(, output: { $($output:ident: $output_type:ty = $value:expr),* })?
        $(, row: |$event:ident| $row:block)?
        $(,)?
    ) => {
        use millrace_plugin::prelude::*;

        #[derive(Config)]
        pub struct Options {
            stamp: Option<i64>,
        }

        #[derive(Input)]
        pub struct Event<'a> {
            event_type: &'a str,
            revenue: Option<f64>,
        }

        #[derive(Output)]
        pub struct Stamped {
            stamp: i64,
            worth: f64,
            $($($output: $output_type,)*)?
        }

        pub struct Stamps {
            stamp: i64,
        }

        #[transform(name = "swap-stamps", version = $version)]
        impl Transform for Stamps {
            type Config = Options;
            type Input<'a> = Event<'a>;
            type Output = Stamped;

            fn new(options: &Options) -> Self {
                Self { stamp: options.stamp.unwrap_or($stamp) }
            }

            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            fn process(&self, event: Event<'_>) -> Vec<Stamped> {
                $(
                    let $event = &event;
                    let () = $row;
                )?
                let rows = if event.event_type == "conversion" { 2 } else { 1 };
                let stamped = || Stamped {
                    stamp: self.stamp,
                    worth: event.revenue.unwrap_or(1.0) * self.stamp as f64,
                    $($($output: $value,)*)?
                };
                (0..rows).map(|_| stamped()).collect()
            }
        }
    };
}
