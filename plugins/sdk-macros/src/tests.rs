//! Every message that an author can get from the macros themselves.

use proc_macro2::TokenStream;
use syn::{DeriveInput, Result};

use crate::{aggregation, fields};

type Derive = fn(&DeriveInput) -> Result<TokenStream>;

fn message(expanded: Result<TokenStream>) -> String {
    match expanded {
        Ok(_) => "none".into(),
        Err(e) => e.to_string(),
    }
}

fn derive(derive: Derive, source: &str) -> String {
    message(syn::parse_str(source).and_then(|item| derive(&item)))
}

fn attribute(arguments: &str, source: &str) -> String {
    message(syn::parse_str(arguments).and_then(|a| aggregation::expand(a, syn::parse_str(source)?)))
}

#[test]
fn a_derive_wants_a_struct_of_named_fields() {
    for each in [fields::input as Derive, fields::state, fields::output, fields::config] {
        for (source, expected) in [
            ("struct Row { a: i64, r#type: i64 }", "none"),
            ("enum Row { A }", "only a struct with named fields can be derived from"),
            ("struct Row(i64);", "the fields need names: they become columns or options"),
            ("struct Row<T> { a: T }", "type parameters are not supported: columns have fixed types"),
        ] {
            assert_eq!(derive(each, source), expected, "{source}");
        }
    }
}

#[test]
fn names_are_unique_after_renaming() {
    for (each, key) in [
        (fields::input as Derive, "input"),
        (fields::state, "state"),
        (fields::output, "output"),
        (fields::config, "config"),
    ] {
        let renamed =
            |name: &str| derive(each, &format!("struct Row {{ #[{key}(name = \"{name}\")] a: i64, b: i64 }}"));
        assert_eq!(renamed("c"), "none");
        assert_eq!(renamed("b"), "there are two fields named `b`");
    }
}

#[test]
fn an_attribute_that_nobody_knows_is_told_what_there_is() {
    for (each, key, known) in [
        (fields::input as Derive, "input", "name, optional"),
        (fields::state, "state", "name"),
        (fields::output, "output", "name"),
        (fields::config, "config", "name, default"),
    ] {
        let found = derive(each, &format!("struct Row {{ #[{key}(rename = \"b\")] a: i64 }}"));
        assert_eq!(found, format!("unknown attribute; there are: {known}"));
    }
    assert_eq!(derive(fields::config, "struct Row { #[config(default = 3)] a: i64 }"), "none");
}

#[test]
fn only_an_input_row_borrows_and_only_from_its_batch() {
    assert_eq!(derive(fields::input, "struct Row<'a> { a: &'a str }"), "none");
    let two = derive(fields::input, "struct Row<'a, 'b> { a: &'a str, b: &'b str }");
    assert_eq!(two, "an input row has one lifetime: that of the batch");
    for each in [fields::state as Derive, fields::output, fields::config] {
        let found = derive(each, "struct Row<'a> { a: &'a str }");
        assert_eq!(found, "it outlives the batch, so it cannot borrow from it: use String");
    }
}

#[test]
fn an_optional_column_is_an_option() {
    assert_eq!(derive(fields::input, "struct Row { #[input(optional)] a: Option<i64> }"), "none");
    let found = derive(fields::input, "struct Row { #[input(optional)] a: i64 }");
    assert_eq!(found, "a column that the input may lack needs an Option");
}

const AGGREGATION: &str =
    "impl Aggregation for A { fn update(&mut self, row: R) {} fn evaluate(&self, w: &Window) -> O { O } }";

#[test]
fn the_arguments_of_an_aggregation() {
    for (arguments, expected) in [
        (r#"name = "a", version = "1.2.3-rc.1""#, "none"),
        (r#"name = "a", version = "1.2.3", ordered"#, "none"),
        (r#"nme = "a""#, "unknown argument; there are: name, version, ordered"),
        (r#"version = "1.2.3""#, "`name = \"…\"` is missing"),
        (r#"name = "a""#, "`version = \"…\"` is missing"),
        (r#"name = "", version = "1.2.3""#, "the name is empty"),
        (r#"name = "a", version = "1.2""#, r#"a version is MAJOR.MINOR.PATCH, as in "1.0.0""#),
        (r#"name = "a", version = "1.2.x""#, r#"a version is MAJOR.MINOR.PATCH, as in "1.0.0""#),
    ] {
        assert_eq!(attribute(arguments, AGGREGATION), expected, "{arguments}");
    }
}

#[test]
fn what_stands_below_an_aggregation() {
    let found = |source: &str| attribute(r#"name = "a", version = "1.0.0""#, source);
    for source in ["impl A { }", "impl Default for A { }"] {
        assert_eq!(found(source), "this belongs above an `impl Aggregation for …`");
    }
    assert_eq!(found("impl Aggregation for A { fn evaluate(&self, w: &Window) -> O { O } }"), "`fn update` is missing");
    assert_eq!(found("impl Aggregation for A { fn update(&mut self, row: R) {} }"), "`fn evaluate` is missing");
}
