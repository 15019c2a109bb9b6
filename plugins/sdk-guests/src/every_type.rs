//! Every type of the interface as input (never null, nullable and missing), state and result: a group keeps its last row.

#![allow(clippy::clone_on_copy, clippy::map_identity, reason = "the macro does not know the types")]

use millrace_plugin::prelude::*;

macro_rules! every {
    ($a:lifetime; $($name:ident $nullable:ident: $input:ty, $owned:ty, |$value:ident| $own:expr;)+) => {
        #[derive(Input)]
        pub struct Row<$a> {
            $($name: $input,)+
            $(#[input(optional)] $nullable: Option<$input>,)+
        }

        #[derive(State, Default)]
        pub struct Last {
            rows: i64,
            $($name: $owned,)+
            $($nullable: Option<$owned>,)+
        }

        #[derive(Output)]
        pub struct Report {
            rows: i64,
            $($name: $owned,)+
            $($nullable: Option<$owned>,)+
        }

        #[aggregation(name = "every-type", version = "0.1.0", ordered)]
        impl Aggregation for Last {
            type Input<$a> = Row<$a>;
            type Output = Report;

            fn update(&mut self, row: Row<'_>) {
                self.rows += 1;
                $(
                    let $value = row.$name;
                    self.$name = $own;
                    self.$nullable = row.$nullable.map(|$value| $own);
                )+
            }

            fn merge(&mut self, other: &Self) {
                self.rows += other.rows;
                if other.rows > 0 {
                    $(
                        self.$name = other.$name.clone();
                        self.$nullable = other.$nullable.clone();
                    )+
                }
            }

            fn evaluate(&self, _: &Window) -> Report {
                Report {
                    rows: self.rows,
                    $($name: self.$name.clone(), $nullable: self.$nullable.clone(),)+
                }
            }
        }
    };
}

every! {
    'a;
    boolean boolean_null: bool, bool, |v| v;
    int int_null: i32, i32, |v| v;
    long long_null: i64, i64, |v| v;
    float float_null: f32, f32, |v| v;
    double double_null: f64, f64, |v| v;
    decimal decimal_null: Decimal<20, 4>, Decimal<20, 4>, |v| v;
    date date_null: Date, Date, |v| v;
    timestamp timestamp_null: Timestamp, Timestamp, |v| v;
    timestamptz timestamptz_null: Timestamptz, Timestamptz, |v| v;
    string string_null: &'a str, String, |v| v.into();
    binary binary_null: &'a [u8], Vec<u8>, |v| v.into();
    longs longs_null: &'a [i64], Vec<i64>, |v| v.into();
    doubles doubles_null: &'a [f64], Vec<f64>, |v| v.into();
    strings strings_null: Strings<'a>, Vec<String>, |v| v.iter().map(Into::into).collect();
}
