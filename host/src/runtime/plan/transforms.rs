//! What becomes of a transform's plugin: it keeps no state, so another one is always taken.

use std::collections::BTreeMap;

use millrace_core::checkpoint::{Checkpoint, PluginRef};

use super::{Fate, Plan, Step, change};

/// `now`: the plugins that would run. A transform that also keeps what it has seen is in the plan already.
pub(super) fn compare(plan: &mut Plan, checkpoint: &Checkpoint, now: &BTreeMap<String, PluginRef>) {
    for (name, after) in now {
        let before = checkpoint.transforms.get(name);
        let plugin = change(before, Some(after));
        if let Some(step) = plan.operators.iter_mut().find(|step| step.name == *name) {
            step.plugin = plugin;
            continue;
        }
        let fate = match before {
            None => Fate::New,
            Some(before) if before.sha256 == after.sha256 && before.config == after.config => Fate::Kept,
            Some(_) => Fate::Swapped,
        };
        plan.operators.push(Step { name: name.clone(), fate, why: None, plugin, table: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(version: &str, config: &str) -> PluginRef {
        let sha256 = version.repeat(12);
        PluginRef { name: "t".into(), version: version.into(), sha256, config: config.into(), in_file: None }
    }

    #[test]
    fn a_plugin_is_new_kept_or_swapped_and_a_step_that_is_there_gets_it() {
        let mut checkpoint = Checkpoint::default();
        let then = [("same", plugin("1", "{}")), ("built", plugin("1", "{}")), ("told", plugin("1", "{}"))];
        checkpoint.transforms.extend(then.map(|(name, plugin)| (name.to_owned(), plugin)));
        checkpoint.transforms.insert("seen".to_owned(), plugin("1", "{}"));
        let now = [
            ("built", plugin("2", "{}")),
            ("new", plugin("1", "{}")),
            ("same", plugin("1", "{}")),
            ("seen", plugin("2", "{}")),
            ("told", plugin("1", "{\"a\":1}")),
        ];
        let now = now.map(|(name, plugin)| (name.to_owned(), plugin)).into();
        let seen = Step { name: "seen".to_owned(), fate: Fate::Kept, why: None, plugin: None, table: None };
        let mut plan = Plan { operators: vec![seen], ..Plan::default() };
        compare(&mut plan, &checkpoint, &now);
        let fates: Vec<_> = plan.operators.iter().map(|step| (step.name.as_str(), step.fate)).collect();
        let expected = [
            ("seen", Fate::Kept),
            ("built", Fate::Swapped),
            ("new", Fate::New),
            ("same", Fate::Kept),
            ("told", Fate::Swapped),
        ];
        assert_eq!(fates, expected);
        let of = |step: &Step| {
            let change = step.plugin.clone().unwrap();
            (change.before.map(|p| p.version), change.after.map(|p| p.version))
        };
        assert_eq!(of(&plan.operators[0]), (Some("1".into()), Some("2".into())));
        assert_eq!(of(&plan.operators[2]), (None, Some("1".into())));
    }
}
