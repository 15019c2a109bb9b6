//! What a restart takes over from a checkpoint, or why not.
//!
//! Pure decisions over the pipeline file and the checkpoint; every refusal names what does not fit and the command that
//! would go on. Nothing is ever reset silently.

use std::collections::{BTreeMap, BTreeSet};

use millrace_core::checkpoint::{Checkpoint, OperatorState, StateFile};
use millrace_core::key::{self, KeyGroup};

use super::message::RunError;
use crate::plugin::{StateOrigin, builtin};

/// How a refusal begins.
pub const DOES_NOT_FIT: &str = "the last checkpoint does not fit this pipeline file:\n- ";

/// What the pipeline file asks for now, in the checkpoint's terms.
pub struct Wanted<'a> {
    pub sources: BTreeSet<&'a str>,
    /// name → the operator as it would be written today (no files, no watermark)
    pub operators: Vec<(&'a str, &'a OperatorState)>,
    pub sinks: BTreeSet<&'a str>,
}

/// What a restart does with a checkpoint.
#[derive(Debug, Default, PartialEq)]
pub struct Reconciled {
    /// for the log
    pub notes: Vec<String>,
    /// operators whose state is of another version or configuration of their plugin
    pub migrations: BTreeMap<String, StateOrigin>,
}

/// Compares; removes from the checkpoint what the user has said to drop.
pub fn reconcile(
    checkpoint: &mut Checkpoint,
    wanted: &Wanted<'_>,
    drop_state: &BTreeSet<String>,
) -> Result<Reconciled, RunError> {
    let mut problems = Vec::new();
    let Reconciled { mut notes, mut migrations } = Reconciled::default();
    for name in drop_state {
        let found = checkpoint.operators.remove(name).is_some()
            | checkpoint.sources.remove(name).is_some()
            | checkpoint.sinks.remove(name).is_some();
        notes.push(if found {
            format!("state of `{name}` dropped, as asked for")
        } else {
            format!("--drop-state {name}: the checkpoint has no state of that name")
        });
    }
    for name in checkpoint.operators.keys() {
        match wanted.operators.iter().find(|(n, _)| n == name) {
            None => problems.push(format!(
                "the checkpoint holds state of operator `{name}`, which the pipeline file no longer has\n  hint: put it \
                 back, or `--drop-state {name}` to go on without that state"
            )),
            Some((_, now)) => {
                if let Some(then) = checkpoint.operators.get(name) {
                    migrations.extend(compare_operator(name, then, now, &mut problems, &mut notes));
                }
            }
        }
    }
    for name in checkpoint.sources.keys() {
        if !wanted.sources.contains(name.as_str()) {
            problems.push(format!(
                "the checkpoint holds positions of source `{name}`, which the pipeline file no longer has\n  hint: put it \
                 back, or `--drop-state {name}` to forget how far it was read"
            ));
        }
    }
    for (name, sink) in &checkpoint.sinks {
        if !wanted.sinks.contains(name.as_str()) {
            let waiting = sink.pending.len();
            problems.push(format!(
                "the checkpoint holds {waiting} commit(s) of sink `{name}` that may not be in its table yet; the pipeline \
                 file no longer has that sink\n  hint: put it back for one run, or `--drop-state {name}` to give them up"
            ));
        }
    }
    if problems.is_empty() {
        Ok(Reconciled { notes, migrations })
    } else {
        Err(RunError::Spec(format!("{DOES_NOT_FIT}{}", problems.join("\n- "))))
    }
}

fn compare_operator(
    name: &str,
    then: &OperatorState,
    now: &OperatorState,
    problems: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Option<(String, StateOrigin)> {
    let choices = choices(name);
    if then.key != now.key {
        let list = |fields: &[millrace_core::schema::Field]| {
            fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        problems.push(format!(
            "the key of `{name}` was ({}) and is now ({}): its groups cannot be found again\n  {choices}",
            list(&then.key),
            list(&now.key)
        ));
    }
    if then.window != now.window {
        problems.push(format!("the window of `{name}` was {} and is now {}\n  {choices}", then.window, now.window));
    }
    let (Some(old), Some(new)) = (&then.plugin, &now.plugin) else { return None };
    if old.sha256 == new.sha256 && old.config == new.config {
        return None;
    }
    if old.name != new.name {
        problems.push(format!(
            "`{name}` ran plugin `{}`, the file names plugin `{}`: state of one is not state of the other\n  {choices}",
            old.name, new.name
        ));
        return None;
    }
    if new.name == builtin::NAME && old.config != new.config {
        problems.push(format!(
            "the aggregates of `{name}` were {} and are now {}: there is no state for what is new\n  {choices}",
            old.config, new.config
        ));
        return None;
    }
    if then.state == now.state && old.config == new.config {
        notes.push(format!(
            "plugin of `{name}` swapped at the start: {} {} → {} {}; state schema and configuration are identical, state taken over",
            old.version,
            short(&old.sha256),
            new.version,
            short(&new.sha256)
        ));
        return None;
    }
    let origin = StateOrigin {
        name: old.name.clone(),
        version: old.version.clone(),
        config: old.config.clone(),
        state: then.state.clone(),
    };
    Some((name.to_owned(), origin))
}

/// What can be done where a plugin does not take the state of the one before.
pub fn not_migrated(name: &str, why: &str) -> String {
    format!("{DOES_NOT_FIT}`{name}`: {why}\n  {}", choices(name))
}

fn choices(name: &str) -> String {
    format!(
        "hint: change it back; then let the old plugin end the open windows, beside the new one (`millrace swap … --drain`) or \
         at once (`millrace stop --drain`); or `--drop-state {name}` to begin `{name}` with empty windows"
    )
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A state file that a task reads at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileForTask {
    pub file: StateFile,
    /// it holds groups of this task only, so that later checkpoints may refer to it
    pub clean: bool,
}

/// Which files each task reads: those whose key groups meet its own.
pub fn files_by_task(files: &[StateFile], tasks: usize) -> Vec<Vec<FileForTask>> {
    (0..tasks)
        .map(|task| {
            let (first, end) = key::key_group_range(task, tasks);
            let last = end.saturating_sub(1);
            files
                .iter()
                .filter(|f| end > first && f.first_key_group <= last && f.last_key_group >= first)
                .map(|f| FileForTask { file: f.clone(), clean: f.first_key_group >= first && f.last_key_group <= last })
                .collect()
        })
        .collect()
}

/// Whether a key belongs to a task's key groups `[first, end)`.
pub fn owns(range: (KeyGroup, KeyGroup), hash: u64) -> bool {
    (range.0..range.1).contains(&key::key_group(hash))
}

#[cfg(test)]
mod tests {
    use millrace_core::checkpoint::PluginRef;
    use millrace_core::schema::{DataType, Field, Schema};

    use super::*;

    fn operator() -> OperatorState {
        OperatorState {
            key: vec![Field::new("campaign_id", DataType::String, false)],
            window: "tumbling 300000".into(),
            plugin: Some(PluginRef {
                name: "m".into(),
                version: "1.0.0".into(),
                sha256: "aa".repeat(32),
                config: "{}".into(),
                in_file: None,
            }),
            state: Schema::new(vec![Field::new("n", DataType::Long, false)]),
            ..OperatorState::default()
        }
    }

    fn checkpoint(operator: OperatorState) -> Checkpoint {
        let mut c = Checkpoint::default();
        c.operators.insert("metrics".into(), operator);
        c
    }

    fn reconcile_with(now: &OperatorState, drop: &[&str]) -> Result<Vec<String>, String> {
        let wanted = Wanted { sources: BTreeSet::new(), operators: vec![("metrics", now)], sinks: BTreeSet::new() };
        let drop = drop.iter().map(|s| (*s).to_owned()).collect();
        reconcile(&mut checkpoint(operator()), &wanted, &drop).map(|r| r.notes).map_err(|e| e.to_string())
    }

    #[test]
    fn the_same_operator_is_taken_over_without_a_word() {
        assert_eq!(reconcile_with(&operator(), &[]), Ok(vec![]));
    }

    #[test]
    fn another_build_with_the_same_state_is_taken_over_and_logged() {
        let mut now = operator();
        now.plugin.as_mut().unwrap().sha256 = "bb".repeat(32);
        assert!(reconcile_with(&now, &[]).unwrap()[0].contains("swapped at the start"));
    }

    #[test]
    fn changed_key_window_or_plugin_is_refused_with_the_way_on() {
        let change: [fn(&mut OperatorState); 3] = [
            |o| o.key = vec![Field::new("user_id", DataType::String, false)],
            |o| o.window = "tumbling 60000".into(),
            |o| {
                o.plugin.as_mut().unwrap().name = "other".into();
                o.plugin.as_mut().unwrap().sha256 = "bb".into();
            },
        ];
        for change in change {
            let mut now = operator();
            change(&mut now);
            assert!(reconcile_with(&now, &[]).unwrap_err().contains("--drop-state metrics"));
            assert!(reconcile_with(&now, &["metrics"]).is_ok());
        }
    }

    #[test]
    fn changed_state_or_configuration_is_the_new_plugins_to_judge() {
        let change: [fn(&mut OperatorState); 2] = [
            |o| {
                o.state = Schema::default();
                o.plugin.as_mut().unwrap().sha256 = "bb".into();
            },
            |o| o.plugin.as_mut().unwrap().config = "{\"a\":1}".into(),
        ];
        for change in change {
            let mut now = operator();
            change(&mut now);
            let wanted =
                Wanted { sources: BTreeSet::new(), operators: vec![("metrics", &now)], sinks: BTreeSet::new() };
            let reconciled = reconcile(&mut checkpoint(operator()), &wanted, &BTreeSet::new()).unwrap();
            let then = operator();
            let plugin = then.plugin.unwrap();
            let origin =
                StateOrigin { name: plugin.name, version: plugin.version, config: plugin.config, state: then.state };
            assert_eq!(reconciled.migrations, BTreeMap::from([("metrics".to_owned(), origin)]));
            let dropped = BTreeSet::from(["metrics".to_owned()]);
            let reconciled = reconcile(&mut checkpoint(operator()), &wanted, &dropped).unwrap();
            assert!(reconciled.migrations.is_empty());
        }
    }

    #[test]
    fn changed_aggregates_are_refused_even_if_their_state_looks_the_same() {
        let of = |config: &str| {
            let plugin = PluginRef {
                name: builtin::NAME.into(),
                version: "1.0.0".into(),
                sha256: format!("builtin 1.0.0: {config}"),
                config: config.into(),
                in_file: None,
            };
            OperatorState { plugin: Some(plugin), ..operator() }
        };
        let now = of("n = sum(b)");
        let wanted = Wanted { sources: BTreeSet::new(), operators: vec![("metrics", &now)], sinks: BTreeSet::new() };
        let reconciled = |drop| reconcile(&mut checkpoint(of("n = sum(a)")), &wanted, &drop).map_err(|e| e.to_string());
        let refused = reconciled(BTreeSet::new()).unwrap_err();
        assert!(refused.contains("were n = sum(a) and are now n = sum(b)"), "{refused}");
        assert!(refused.contains("--drop-state metrics"), "{refused}");
        assert!(reconciled(BTreeSet::from(["metrics".to_owned()])).is_ok());
    }

    #[test]
    fn state_that_nothing_wants_is_refused() {
        let wanted = Wanted { sources: BTreeSet::new(), operators: vec![], sinks: BTreeSet::new() };
        assert!(reconcile(&mut checkpoint(operator()), &wanted, &BTreeSet::new()).is_err());
    }

    #[test]
    fn a_file_is_clean_only_for_the_task_that_has_all_of_it() {
        let file = |first, last| StateFile {
            holds: Default::default(),
            part: 0,
            path: format!("{first}-{last}"),
            bytes: 1,
            sha256: String::new(),
            first_key_group: first,
            last_key_group: last,
            window_start_ms: 0,
            window_end_ms: 1,
            groups: 1,
            written_by: 1,
        };
        let files = [file(0, 63), file(64, 127)];
        let same = files_by_task(&files, 2);
        assert!(same.iter().all(|f| f.len() == 1 && f[0].clean));
        let one = files_by_task(&files, 1);
        assert!(one[0].len() == 2 && one[0].iter().all(|f| f.clean));
        let three = files_by_task(&files, 3);
        assert!(three.iter().map(Vec::len).sum::<usize>() == 4);
        assert!(three.iter().flatten().all(|f| !f.clean));
    }
}
