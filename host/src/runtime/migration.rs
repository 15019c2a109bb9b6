//! State of one version of a plugin, made into state of another by the other's own `migrate`: whether it takes all of it,
//! and in words why it does not.
//!
//! Fills in nothing, drops nothing, and never looks at what a column means: only the plugin knows that.

use std::fmt::Write as _;

use millrace_core::checkpoint::{Holds, OperatorState};
use millrace_core::schema::{Field, Schema};

use super::message::RunError;
use super::read_state::StateReader;
use super::{restore, versions};
use crate::plugin::{Aggregator, StateOrigin};

/// Whether the new version takes all of an operator's state, tried on a copy: what it makes of it is thrown away.
pub fn try_on_a_copy(
    operator: &str,
    plugin: &mut dyn Aggregator,
    origin: &StateOrigin,
    state: &OperatorState,
    reader: &dyn StateReader,
) -> Result<(), RunError> {
    let before = state.key.len() + 2;
    let refused = |why: &str| RunError::Spec(restore::not_migrated(operator, why));
    for file in state.files.iter().filter(|file| file.holds == Holds::State) {
        for batch in reader.read(file)? {
            let columns = batch.columns().get(before..).unwrap_or_default();
            match plugin.migrate(origin, columns) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(refused(&versions::refused(origin, &plugin.signature().state))),
                Err(error) => return Err(refused(&format!("migrating its state failed: {error}"))),
            }
        }
    }
    Ok(())
}

const WAS: &str = "state was";
const IS: &str = "state is";

/// Every column of either, a line each, with what became of it. Begins with a line break.
pub fn explain_columns(old: &Schema, new: &Schema) -> String {
    let mut lines: Vec<(String, String, &str)> = Vec::new();
    for was in &old.fields {
        let (is, note) = match new.field(&was.name) {
            None => (String::from("–"), "the new version does not have it"),
            Some(is) => (is.to_string(), changed(was, is)),
        };
        lines.push((was.to_string(), is, note));
    }
    for is in new.fields.iter().filter(|field| old.field(&field.name).is_none()) {
        lines.push((String::from("–"), is.to_string(), "new: nothing is known of it for what was counted before"));
    }
    let chars = |text: &str| text.chars().count();
    let before = lines.iter().map(|line| chars(&line.0)).chain([chars(WAS)]).max().unwrap_or(0);
    let after = lines.iter().map(|line| chars(&line.1)).chain([chars(IS)]).max().unwrap_or(0);
    let mut text = format!("\n  {WAS:<before$}  {IS}");
    for (was, is, note) in &lines {
        // writing to a String cannot fail
        let _ = write!(text, "\n  {was:<before$}  {is:<after$}  {note}");
    }
    if old.fields == new.fields {
        text.push_str("\n  (the columns are the same: it is the configuration or the version that it does not take)");
    } else if is_only_another_order(old, new) {
        text.push_str("\n  (the columns are the same, in another order)");
    }
    text
}

fn changed(was: &Field, is: &Field) -> &'static str {
    if was.data_type != is.data_type {
        "another type"
    } else if was.nullable && !is.nullable {
        "may not be missing any more"
    } else if !was.nullable && is.nullable {
        "may be missing now"
    } else {
        "as it was"
    }
}

fn is_only_another_order(old: &Schema, new: &Schema) -> bool {
    old.fields.len() == new.fields.len() && old.fields.iter().all(|field| new.field(&field.name) == Some(field))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use millrace_core::checkpoint::StateFile;
    use millrace_core::schema::DataType::{self, Double, Long, String};

    use super::*;
    use crate::plugin::{OutputRows, PluginError, Rejected, Result as Answered, Signature, StateChunk, WindowUs};

    fn schema(fields: &[(&str, DataType, bool)]) -> Schema {
        Schema::new(fields.iter().map(|(name, of, nullable)| Field::new(*name, *of, *nullable)).collect())
    }

    #[test]
    fn every_column_is_named_with_what_became_of_it() {
        let old = schema(&[("n", Long, false), ("gone", String, true), ("sum", Long, false), ("maybe", Long, true)]);
        let new =
            schema(&[("n", Long, false), ("sum", Double, false), ("maybe", Long, false), ("more", Double, false)]);
        let expected = "\n  state was      state is\n  \
            n: long        n: long       as it was\n  \
            gone: string?  –             the new version does not have it\n  \
            sum: long      sum: double   another type\n  \
            maybe: long?   maybe: long   may not be missing any more\n  \
            –              more: double  new: nothing is known of it for what was counted before";
        assert_eq!(explain_columns(&old, &new), expected);
    }

    #[test]
    fn the_same_columns_are_said_to_be_the_same() {
        let a = schema(&[("n", Long, false), ("s", String, true)]);
        let b = schema(&[("s", String, true), ("n", Long, false)]);
        assert!(explain_columns(&a, &a).contains("it is the configuration"));
        assert!(explain_columns(&a, &b).contains("in another order"));
    }

    /// Takes state until it sees a number that it does not know how to.
    struct Picky {
        signature: Signature,
        seen: Vec<i64>,
    }

    const CANNOT: i64 = 7;
    const TRAPS: i64 = 13;

    impl Aggregator for Picky {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn migrate(&mut self, _: &StateOrigin, state: &[ArrayRef]) -> Answered<Option<Vec<ArrayRef>>> {
            use arrow_array::cast::AsArray as _;
            let numbers = state[0].as_primitive::<arrow_array::types::Int64Type>().values().to_vec();
            self.seen.extend(&numbers);
            if numbers.contains(&TRAPS) {
                let message = "unreachable".to_owned();
                return Err(PluginError::Contract { plugin: "m".into(), call: "migrate", message });
            }
            Ok((!numbers.contains(&CANNOT)).then(|| state.to_vec()))
        }

        fn update(&mut self, _: &[Option<ArrayRef>], _: &[u32], _: u32) -> Answered<Vec<Rejected>> {
            unreachable!("only migrates")
        }

        fn combine(&mut self, _: &[u32], _: &[u32]) -> Answered<()> {
            unreachable!("only migrates")
        }

        fn merge(&mut self, _: &[ArrayRef], _: &[u32], _: u32) -> Answered<()> {
            unreachable!("only migrates")
        }

        fn state(&mut self, _: &[u32], _: u64, _: u64) -> Answered<StateChunk> {
            unreachable!("only migrates")
        }

        fn evaluate(&mut self, _: &[u32], _: &[WindowUs], _: bool) -> Answered<OutputRows> {
            unreachable!("only migrates")
        }

        fn reset(&mut self, _: &[u32]) -> Answered<()> {
            unreachable!("only migrates")
        }

        fn size(&mut self) -> Answered<u64> {
            unreachable!("only migrates")
        }
    }

    /// A file's path is the number that its one row holds, after a key and the window's edges.
    struct Files;

    impl StateReader for Files {
        fn read(&self, file: &StateFile) -> Result<Vec<RecordBatch>, RunError> {
            let column = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
            let number = file.path.parse().expect("a number");
            let columns = [("k", column(-1)), ("from", column(-2)), ("to", column(-3)), ("n", column(number))];
            Ok(vec![RecordBatch::try_from_iter(columns).expect("a batch")])
        }
    }

    fn tried(numbers: &[i64]) -> (Vec<i64>, Result<(), RunError>) {
        let file = |holds, path: &str| StateFile {
            holds,
            part: 0,
            path: path.into(),
            bytes: 1,
            sha256: "".into(),
            first_key_group: 0,
            last_key_group: 127,
            window_start_ms: 0,
            window_end_ms: 1,
            groups: 1,
            written_by: 1,
        };
        let mut files = vec![file(Holds::Ledger, "7")];
        files.extend(numbers.iter().map(|n| file(Holds::State, &n.to_string())));
        let key = vec![Field::new("k", Long, false)];
        let state = OperatorState { key, files, ..OperatorState::default() };
        let (old, new) = (schema(&[("n", Long, false)]), schema(&[("n", Long, false), ("more", Double, false)]));
        let origin = StateOrigin { name: "m".into(), version: "1.0.0".into(), config: "{}".into(), state: old };
        let signature = Signature { input: vec![], state: new, output: Schema::default(), ordered: false };
        let mut plugin = Picky { signature, seen: vec![] };
        let result = try_on_a_copy("metrics", &mut plugin, &origin, &state, &Files);
        (plugin.seen, result)
    }

    #[test]
    fn all_state_is_tried_and_nothing_that_is_none() {
        let (seen, result) = tried(&[1, 2, 3]);
        assert_eq!(seen, [1, 2, 3]);
        assert!(result.is_ok(), "{result:?}");
    }

    #[test]
    fn state_that_is_not_taken_refuses_the_start_column_by_column_with_the_choices() {
        let refused = tried(&[1, CANNOT]).1.expect_err("the last file").to_string();
        for part in ["`metrics`", "m 1.0.0", "more: double", "new: nothing is known", "--drop-state metrics", "--drain"]
        {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        let failed = tried(&[1, TRAPS]).1.expect_err("the last file").to_string();
        assert!(failed.contains("unreachable") && failed.contains("--drop-state metrics"), "{failed}");
    }
}
