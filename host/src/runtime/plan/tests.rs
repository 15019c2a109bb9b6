use std::collections::BTreeMap;

use millrace_core::checkpoint::{SinkState, SourceState};
use millrace_core::schema::{DataType, Field, Schema};

use super::*;

fn operator(version: &str, config: &str, state: &str) -> OperatorState {
    let plugin = PluginRef {
        name: "m".into(),
        version: version.into(),
        sha256: version.repeat(12),
        config: config.into(),
        in_file: None,
    };
    OperatorState {
        key: vec![Field::new("campaign_id", DataType::String, false)],
        window: "tumbling".into(),
        plugin: Some(plugin),
        state: Schema::new(vec![Field::new(state, DataType::Long, false)]),
        ..OperatorState::default()
    }
}

fn checkpoint() -> Checkpoint {
    let names = ["same", "rebuilt", "migrated", "stubborn", "windowed", "gone", "dropped"];
    Checkpoint {
        sources: ["events", "old"].map(|name| (name.to_owned(), SourceState::default())).into(),
        operators: names.map(|name| (name.to_owned(), operator("1.0.0", "{}", "n"))).into(),
        sinks: ["table", "old_table"].map(|name| (name.to_owned(), SinkState::default())).into(),
        ..Checkpoint::default()
    }
}

fn compared() -> (Plan, BTreeMap<String, Fate>) {
    let windowed = OperatorState { window: "sliding".into(), ..operator("1.0.0", "{}", "n") };
    let now = [
        ("same", operator("1.0.0", "{}", "n")),
        ("rebuilt", operator("1.0.1", "{}", "n")),
        ("migrated", operator("2.0.0", "{}", "m")),
        ("stubborn", operator("1.0.0", "{\"by\":2}", "n")),
        ("windowed", windowed),
        ("dropped", operator("2.0.0", "{}", "m")),
        ("new", operator("1.0.0", "{}", "n")),
    ];
    let wanted = Wanted {
        sources: ["events", "more"].into(),
        operators: now.iter().map(|(name, state)| (*name, state)).collect(),
        sinks: ["table", "new_table"].into(),
    };
    let migrate = |name: &str, _: &OperatorState, _: &StateOrigin| match name {
        "stubborn" => Err(RunError::Spec(restore::not_migrated(name, "it has no use for that"))),
        _ => Ok(()),
    };
    let plan = compare(&checkpoint(), &wanted, &BTreeSet::from(["dropped".to_owned()]), &migrate);
    let fates = plan.steps().map(|step| (step.name.clone(), step.fate)).collect();
    (plan, fates)
}

#[test]
fn windows_that_a_former_version_ends_are_named() {
    let mut then = operator("2.0.0", "{}", "m");
    let plugin = operator("1.0.0", "{}", "n").plugin.unwrap();
    let before_ms = 1_700_000_000_000;
    then.draining = Some(millrace_core::checkpoint::Draining { plugin, state: Schema::default(), before_ms });
    let checkpoint = Checkpoint { operators: [("same".to_owned(), then)].into(), ..Checkpoint::default() };
    let now = operator("2.0.0", "{}", "m");
    let wanted = Wanted { sources: BTreeSet::new(), operators: vec![("same", &now)], sinks: BTreeSet::new() };
    let plan = compare(&checkpoint, &wanted, &BTreeSet::new(), &|_, _, _| Ok(()));
    assert_eq!(plan.operators[0].fate, Fate::Kept);
    let why = plan.operators[0].why.clone().unwrap();
    assert!(why.contains("22:13:20") && why.contains("m 1.0.0"), "{why}");
}

#[test]
fn every_node_of_the_file_and_of_the_checkpoint_has_its_fate() {
    let expected = [
        ("events", Fate::Kept),
        ("old", Fate::Refused),
        ("more", Fate::New),
        ("same", Fate::Kept),
        ("rebuilt", Fate::Swapped),
        ("migrated", Fate::Migrated),
        ("stubborn", Fate::Refused),
        ("windowed", Fate::Refused),
        ("gone", Fate::Refused),
        ("dropped", Fate::Dropped),
        ("new", Fate::New),
        ("table", Fate::Kept),
        ("old_table", Fate::Refused),
        ("new_table", Fate::New),
    ];
    let (plan, fates) = compared();
    assert_eq!(fates, expected.map(|(name, fate)| (name.to_owned(), fate)).into());
    assert_eq!(plan.steps().count(), expected.len());
}

#[test]
fn a_refusal_says_why_and_what_can_be_done() {
    let (plan, _) = compared();
    let why = |name: &str| plan.steps().find(|step| step.name == name).and_then(|step| step.why.clone()).unwrap();
    assert!(
        why("windowed").starts_with("the window of `windowed` was tumbling and is now sliding"),
        "{}",
        why("windowed")
    );
    assert!(why("stubborn").contains("it has no use for that"), "{}", why("stubborn"));
    for name in ["stubborn", "windowed", "gone", "old", "old_table", "dropped"] {
        assert!(why(name).contains(&format!("--drop-state {name}")), "{}", why(name));
    }
}

#[test]
fn the_plugin_is_shown_as_it_was_and_as_it_will_be() {
    let (plan, _) = compared();
    let of = |name: &str| plan.operators.iter().find(|step| step.name == name).and_then(|s| s.plugin.clone()).unwrap();
    let versions = |change: Change| (change.before.map(|p| p.version), change.after.map(|p| p.version));
    assert_eq!(versions(of("migrated")), (Some("1.0.0".to_owned()), Some("2.0.0".to_owned())));
    assert_eq!(versions(of("new")), (None, Some("1.0.0".to_owned())));
    assert_eq!(versions(of("gone")), (Some("1.0.0".to_owned()), None));
}
