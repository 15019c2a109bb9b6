//! Every message that an author can get from the macros themselves.

use proc_macro2::TokenStream;
use syn::{DeriveInput, Result};

use crate::attribute::{self, AGGREGATION, JOIN, Kind, TRANSFORM};
use crate::fields;

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

fn attribute(kind: &Kind, arguments: &str, source: &str) -> String {
    message(syn::parse_str(arguments).and_then(|a| attribute::expand(kind, &a, syn::parse_str(source)?)))
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
        (fields::state, "state", "name, default"),
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

const WELL: &str = "impl Aggregation for A { type Input<'a> = R; type Output = O; fn update(&mut self, row: R) {} \
    fn merge(&mut self, other: &Self) {} fn evaluate(&self, w: &Window) -> O { O } }";

#[test]
fn the_arguments_of_an_attribute() {
    for (arguments, expected) in [
        (r#"name = "a", version = "1.2.3-rc.1""#, "none"),
        (r#"name = "a", version = "1.2.3", ordered"#, "none"),
        (r#"nme = "a""#, "unknown argument; there are: name, version, ordered"),
        (r#"version = "1.2.3""#, "`name = \"…\"` is missing"),
        (r#"name = "a""#, "`version = \"…\"` is missing"),
        (r#"name, version = "1.2.3""#, "write `name = \"…\"`"),
        (r#"name = "a", name = "b""#, "`name` is given twice"),
        (r#"ordered = "yes""#, "`ordered` stands alone"),
        (r#"name = "", version = "1.2.3""#, "the name is empty"),
        (r#"name = "a", version = "1.2""#, r#"a version is MAJOR.MINOR.PATCH, as in "1.0.0""#),
        (r#"name = "a", version = "1.2.x""#, r#"a version is MAJOR.MINOR.PATCH, as in "1.0.0""#),
    ] {
        assert_eq!(attribute(&AGGREGATION, arguments, WELL), expected, "{arguments}");
    }
    for kind in [&TRANSFORM, &JOIN] {
        let found = attribute(kind, r#"name = "a", version = "1.0.0", ordered"#, WELL);
        assert_eq!(found, "unknown argument; there are: name, version");
    }
}

fn below(kind: &Kind, source: &str) -> String {
    attribute(kind, r#"name = "a", version = "1.0.0""#, source)
}

#[test]
fn what_stands_below_an_attribute() {
    for kind in [&AGGREGATION, &TRANSFORM, &JOIN] {
        for source in ["impl A { }", "impl Default for A { }"] {
            assert_eq!(below(kind, source), format!("this belongs above an `impl {} for …`", kind.of));
        }
    }
    for (kind, body, expected) in [
        (&AGGREGATION, "type Output = O;", "`type Input<'a> = …;` is missing"),
        (&AGGREGATION, "type Input<'a> = R;", "`type Output = …;` is missing"),
        (&TRANSFORM, "fn process(&self, row: R) {}", "`type Input<'a> = …;` is missing"),
        (&JOIN, "type Left<'a> = L; type Output = O;", "`type Right<'a> = …;` is missing"),
    ] {
        assert_eq!(below(kind, &format!("impl {} for A {{ {body} }}", kind.of)), expected, "{body}");
    }
}

#[test]
fn a_function_that_is_missing_or_wrong_is_shown_as_it_should_be() {
    let update = "`fn update(&mut self, row: Self::Input<'_>)`";
    let merge = "`fn merge(&mut self, other: &Self)`";
    let process = "`fn process(&self, row: Self::Input<'_>) -> Self::Output`";
    let pair = "`fn pair(&self, left: Self::Left<'_>, right: Self::Right<'_>) -> Self::Output`";
    let new = "`fn new(options: &Self::Config) -> Self`";
    let in_aggregation = "type Input<'a> = R; type Output = O; ";
    let in_join = "type Left<'a> = L; type Right<'a> = R; type Output = O; ";
    for (kind, body, expected) in [
        (&AGGREGATION, format!("{in_aggregation} fn merge(&mut self, o: &Self) {{}}"), format!("{update} is missing")),
        (&AGGREGATION, format!("{in_aggregation} fn update(&mut self, row: R) {{}}"), format!("{merge} is missing")),
        (&AGGREGATION, format!("{in_aggregation} fn update(&self, row: R) {{}}"), format!("write {update}")),
        (&AGGREGATION, format!("{in_aggregation} fn update(row: R) {{}}"), format!("write {update}")),
        (&AGGREGATION, format!("{in_aggregation} fn update(&mut self, a: R, b: R) {{}}"), format!("write {update}")),
        (&AGGREGATION, format!("{in_aggregation} fn new() -> Self {{ A }}"), format!("write {new}")),
        (&AGGREGATION, format!("{in_aggregation} fn new(&self) -> Self {{ A }}"), format!("write {new}")),
        (&TRANSFORM, "type Input<'a> = R;".into(), format!("{process} is missing")),
        (&TRANSFORM, "type Input<'a> = R; fn process(self, row: R) {}".into(), format!("write {process}")),
        (&TRANSFORM, "type Input<'a> = R; fn process(&self, row: R) -> bool { true }".into(), "none".into()),
        (&TRANSFORM, "type Input<'a> = R; fn process(&mut self, row: R) -> bool { true }".into(), "none".into()),
        (&JOIN, in_join.into(), format!("{pair} is missing")),
        (&JOIN, format!("{in_join} fn pair(&mut self, l: L, r: R) -> O {{ O }}"), format!("write {pair}")),
        (&JOIN, format!("{in_join} fn pair(&self, l: L, r: R) -> O {{ O }}"), "none".into()),
    ] {
        assert_eq!(below(kind, &format!("impl {} for A {{ {body} }}", kind.of)), expected, "{body}");
    }
}

#[test]
fn what_a_state_says_of_older_ones() {
    for (attributes, expected) in [
        ("", "none"),
        (r#"#[state(drops("old", "older"), any_config)]"#, "none"),
        (r#"#[state(drops("old"))] #[state(any_config)]"#, "none"),
        ("#[state(default)]", "unknown attribute; there are: drops, any_config"),
        ("#[state(drops)]", "write `drops(\"old_field\")`"),
        (r#"#[state(drops("old", "b"))]"#, "`b` is a field of this state"),
    ] {
        let source = format!(
            "{attributes} struct S {{ #[state(name = \"b\", default)] a: i64, #[state(default = 1 + 1)] c: i64 }}"
        );
        assert_eq!(derive(fields::state, &source), expected, "{attributes}");
    }
}

#[test]
fn what_a_migration_is() {
    let attribute_wrong = "write `#[migrate(from = \"1.x\")]`";
    let versions = r#"versions are named as "1", "1.x", "1.2.x" or "1.2.3""#;
    let form = "write `fn from_v1(old: OldState, origin: &Origin, options: &Options) -> Option<Self>`; the last two \
        parameters may be left away";
    let fits = "fn m(old: Old) -> Self { A }";
    for (attribute, function, expected) in [
        ("#[migrate(from = \"1.x\")]", fits, "none"),
        (
            "#[millrace_plugin::prelude::migrate(from = \"1\")]",
            "fn m(o: Old, a: &Origin, b: &()) -> Option<Self> { None }",
            "none",
        ),
        ("#[migrate(from = \"1.2.3\")]", "fn m(o: Old, a: &Origin) -> Result<Self, Reject> { Ok(A) }", "none"),
        ("#[migrate]", fits, attribute_wrong),
        ("#[migrate(\"1.x\")]", fits, attribute_wrong),
        ("#[migrate(to = \"1.x\")]", fits, attribute_wrong),
        ("#[migrate(from = \"1.x\", name = \"a\")]", fits, attribute_wrong),
        ("#[migrate(from = \"x\")]", fits, versions),
        ("#[migrate(from = \"1.x.2\")]", fits, versions),
        ("#[migrate(from = \"^1\")]", fits, versions),
        ("#[migrate(from = \"1.2.3.4\")]", fits, versions),
        ("#[migrate(from = \"1\")] #[migrate(from = \"2\")]", fits, "one `#[migrate]` a function"),
        ("#[migrate(from = \"1\")]", "fn m(&self) -> Self { A }", form),
        ("#[migrate(from = \"1\")]", "fn m() -> Self { A }", form),
        ("#[migrate(from = \"1\")]", "fn m(old: &Old) -> Self { A }", form),
        ("#[migrate(from = \"1\")]", "fn m(old: Old) {}", form),
        ("#[migrate(from = \"1\")]", "fn m(a: Old, b: &Origin, c: &(), d: i64) -> Self { A }", form),
    ] {
        let source = WELL.replacen('{', &format!("{{ {attribute} {function} "), 1);
        assert_eq!(below(&AGGREGATION, &source), expected, "{attribute} {function}");
    }
}
