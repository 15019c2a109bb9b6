//! Derive macros of the Millrace plugin SDK; what they generate is documented in `millrace-plugin`.
//!
//! They only name traits and fields: every decision about types is made by the traits, whose own messages the author
//! then reads, at the field that caused them.

mod attribute;
mod fields;
mod migrations;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// An input row: each field is a column of that name. `#[input(name = "…")]` renames, `#[input(optional)]` (on an
/// `Option`) lets the input lack it.
#[proc_macro_derive(Input, attributes(input))]
pub fn input(item: TokenStream) -> TokenStream {
    expand(item, fields::input)
}

/// A group's state: each field becomes one or more typed columns. `#[state(name = "…")]` renames.
///
/// State of an older version: `#[state(default)]` on a field fills it in where that state lacks it, with what `new` gives or
/// with `#[state(default = …)]`; above the struct `#[state(drops("old_field"))]` lets an old field be lost, and
/// `#[state(any_config)]` takes state that was made under other options. Everything else is for `#[migrate]`.
#[proc_macro_derive(State, attributes(state))]
pub fn state(item: TokenStream) -> TokenStream {
    expand(item, fields::state)
}

/// A result row: each field is a column. `#[output(name = "…")]` renames.
#[proc_macro_derive(Output, attributes(output))]
pub fn output(item: TokenStream) -> TokenStream {
    expand(item, fields::output)
}

/// Options: `#[config(default = …)]` makes one optional, `#[config(name = "…")]` renames.
#[proc_macro_derive(Config, attributes(config))]
pub fn config(item: TokenStream) -> TokenStream {
    expand(item, fields::config)
}

/// `#[aggregation(name = "…", version = "…")]` over `impl Aggregation for T`; `ordered` where the order of rows counts.
#[proc_macro_attribute]
pub fn aggregation(arguments: TokenStream, item: TokenStream) -> TokenStream {
    attribute(&attribute::AGGREGATION, arguments, item)
}

/// `#[migrate(from = "1.x")]` on a function within `#[aggregation]`: makes state of an older version's, row by row. It takes
/// the old row (a struct with `#[derive(State)]` that has exactly the old columns), then, if it wants them, `&Origin` and
/// the options; it returns `Self`, `Option<Self>` or `Result<Self, Reject>`.
#[proc_macro_attribute]
pub fn migrate(_: TokenStream, item: TokenStream) -> TokenStream {
    let message = "`#[migrate]` belongs on a function within the `impl Aggregation for …` below `#[aggregation]`";
    let error = syn::Error::new(proc_macro2::Span::call_site(), message).to_compile_error();
    TokenStream::from(error).into_iter().chain(item).collect()
}

/// `#[transform(name = "…", version = "…")]` over `impl Transform for T`.
#[proc_macro_attribute]
pub fn transform(arguments: TokenStream, item: TokenStream) -> TokenStream {
    attribute(&attribute::TRANSFORM, arguments, item)
}

/// `#[join(name = "…", version = "…")]` over `impl Join for T`.
#[proc_macro_attribute]
pub fn join(arguments: TokenStream, item: TokenStream) -> TokenStream {
    attribute(&attribute::JOIN, arguments, item)
}

fn attribute(kind: &attribute::Kind, arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = syn::parse_macro_input!(arguments as attribute::Arguments);
    let item = syn::parse_macro_input!(item as syn::ItemImpl);
    attribute::expand(kind, &arguments, item).unwrap_or_else(|e| e.to_compile_error()).into()
}

fn expand(item: TokenStream, f: fn(&syn::DeriveInput) -> syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    let item = syn::parse_macro_input!(item as syn::DeriveInput);
    f(&item).unwrap_or_else(|e| e.to_compile_error()).into()
}
