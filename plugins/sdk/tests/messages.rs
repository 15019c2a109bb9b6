//! What an author reads who has misused a derive or an attribute: each `ui/NAME.rs` does not compile, with `ui/NAME.stderr`.
//! `TRYBUILD=overwrite cargo test -p millrace-plugin --test messages` accepts new texts; read them before.

#[test]
fn misuse_is_explained() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
