//! `swap-counts`, a plugin in many versions: what a campaign has seen of each type of event, its revenue, and its
//! click-through rate. Each example of this package is one version, a component of its own; [`swap_counts!`] holds what
//! they share, so that a version's file says only in what it differs.
//!
//! | example | version | differs in |
//! |---|---|---|
//! | `v1` | 1.0.0 | nothing |
//! | `equal` | 1.0.1 | nothing but its version, so its digest |
//! | `planted` | 1.0.2 | revenue of campaigns whose id ends in `c7` or `0007` is 0.1 % higher; also wants `campaign_id` |
//! | `more_output` | 1.1.0 | one more output column, `events` |
//! | `wider` | 1.2.0 | one more state column, `others`, with a default |
//! | `v2` | 2.0.0 | a click counts as two |
//! | `incompatible` | 3.0.0 | one more state column, `score`, and nothing that says what it was before; a click counts as three |
//! | `trap_first` | 1.0.3 | panics at its first row |
//! | `trap_later` | 1.0.4 | panics after [`TRAPS_AFTER`] rows |
//! | `salted`, `salted_2` | 1.1.0, 1.1.1 | options: `salt`, `pin` |
//! | `told` | 1.1.2 | the same, and panics at its first group with a message that holds them |
//! | `tuned` | 1.1.3 | an option, `step`, and state that is good under any of them |
//! | `endless` | 1.0.5 | never comes back from its first row |
//!
//! [`swap_stamps!`] is a transform.
//!
//! The input is `event_type` (string) and `revenue` (double?); the state impressions, clicks, conversions (long) and revenue
//! (double); the output the same and `ctr` (double?).

mod stamps;

/// Rows that an instance of `trap_later` takes before it panics.
pub const TRAPS_AFTER: u64 = 10_000;

/// A version of the plugin. The parts in braces may be left away, but keep this order.
///
/// ```text
/// swap_counts! {
///     version: "1.0.0",
///     input: { campaign_id: &'a str },               // more columns to want
///     state: { #[state(default)] others: i64 },      // more state, added up when merged
///     output: { events: i64 = |counts| … },          // more columns to give
///     update: |counts, event| { … },                 // done for each row, before it is counted
///     options: { salt: String } |options| { … },     // done for each new group
///     #[state(any_config)]                           // of the state
/// }
/// ```
#[macro_export]
macro_rules! swap_counts {
    (
        version: $version:tt
        $(, input: { $($input:ident: $input_type:ty),* })?
        $(, state: { $($(#[$meta:meta])* $state:ident: $state_type:ty),* })?
        $(, output: { $($output:ident: $output_type:ty = |$given:ident| $value:expr),* })?
        $(, update: |$counts:ident, $event:ident| $update:block)?
        $(, options: { $($option:ident: $option_type:ty),* } |$options:ident| $new:block)?
        $(, #[$of_state:meta])?
        $(,)?
    ) => {
        use millrace_plugin::prelude::*;

        $(
            #[derive(Config)]
            pub struct Options {
                $($option: $option_type,)*
            }
        )?

        #[derive(Input)]
        pub struct Event<'a> {
            event_type: &'a str,
            revenue: Option<f64>,
            $($($input: $input_type,)*)?
        }

        #[derive(State, Default)]
        $(#[$of_state])?
        pub struct Counts {
            impressions: i64,
            clicks: i64,
            conversions: i64,
            revenue: f64,
            $($($(#[$meta])* $state: $state_type,)*)?
        }

        #[derive(Output)]
        pub struct Report {
            impressions: i64,
            clicks: i64,
            conversions: i64,
            revenue: f64,
            ctr: Option<f64>,
            $($($output: $output_type,)*)?
        }

        #[aggregation(name = "swap-counts", version = $version)]
        impl Aggregation for Counts {
            type Input<'a> = Event<'a>;
            type Output = Report;
            $(
                type Config = Options;

                fn new($options: &Options) -> Self {
                    let () = $new;
                    Self::default()
                }
            )?

            fn update(&mut self, event: Event<'_>) {
                $(
                    let ($counts, $event) = (&mut *self, &event);
                    let () = $update;
                )?
                match event.event_type {
                    "impression" => self.impressions += 1,
                    "click" => self.clicks += 1,
                    "conversion" => self.conversions += 1,
                    _ => {}
                }
                self.revenue += event.revenue.unwrap_or(0.0);
            }

            fn merge(&mut self, other: &Self) {
                self.impressions += other.impressions;
                self.clicks += other.clicks;
                self.conversions += other.conversions;
                self.revenue += other.revenue;
                $($(self.$state += other.$state;)*)?
            }

            #[allow(clippy::cast_precision_loss, reason = "a rate of counts far below 2^53")]
            fn evaluate(&self, _: &Window) -> Report {
                Report {
                    impressions: self.impressions,
                    clicks: self.clicks,
                    conversions: self.conversions,
                    revenue: self.revenue,
                    ctr: (self.impressions > 0).then(|| self.clicks as f64 / self.impressions as f64),
                    $($($output: (|$given: &Self| $value)(self),)*)?
                }
            }
        }
    };
}
