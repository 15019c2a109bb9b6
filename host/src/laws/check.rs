//! One law on one trial. A plugin that fails while a law is checked breaks it: no valid row may kill a plugin.

use super::subject::{Instance, LawSubject, Prepared, View, difference};
use super::{Law, Trial};
use crate::plugin::{PluginError, StateOrigin};

/// A law that does not hold, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

/// None: the law holds on these rows, or they say nothing about it.
pub fn check(law: Law, subject: &LawSubject, trial: &Trial) -> Option<Broken> {
    let prepared = subject.prepare(trial)?;
    let check = Check { subject, trial: &prepared };
    let seen = match law {
        Law::Determinism => check.determinism(),
        Law::SplitInvariance => check.split_invariance(),
        Law::RowOrder => check.row_order(),
        Law::MergeCommutative => check.merge_commutative(),
        Law::MergeAssociative => check.merge_associative(),
        Law::MergeIsUpdate => check.merge_is_update(),
        Law::CombineIsMerge => check.combine_is_merge(),
        Law::SaveLoad => check.save_load(),
        Law::Reset => check.reset(),
        Law::RejectedRows => check.rejected_rows(),
        Law::Migrate => check.migrate(),
    };
    match seen {
        Ok(None) => None,
        Ok(Some(what)) => Some(Broken(what)),
        Err(error) => Some(Broken(error.to_string())),
    }
}

struct Check<'a> {
    subject: &'a LawSubject,
    trial: &'a Prepared,
}

type Seen = Result<Option<String>, PluginError>;

impl<'a> Check<'a> {
    fn part(&self, part: usize) -> &'a [u32] {
        self.trial.parts.get(part).map_or(&[], Vec::as_slice)
    }

    /// Groups that a part has rows of.
    fn groups_of(&self, rows: &[u32]) -> Vec<u32> {
        let mut groups: Vec<u32> =
            rows.iter().filter_map(|row| self.trial.groups.get(*row as usize)).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// An instance that has seen these rows, a call each.
    fn after(&self, batches: &[&[u32]]) -> Result<Instance<'a>, PluginError> {
        let mut instance = self.subject.open()?;
        for rows in batches {
            instance.update(self.trial, rows)?;
        }
        Ok(instance)
    }

    fn merged(&self, into: &mut Instance<'_>, from: &mut Instance<'_>, groups: &[u32]) -> Result<(), PluginError> {
        let chunks = from.export_all(groups)?;
        into.merge(&chunks, self.trial.total)
    }

    fn compare(&self, a: &mut Instance<'_>, b: &mut Instance<'_>, names: [&str; 2]) -> Seen {
        let (a, b) = (a.view(self.trial.total)?, b.view(self.trial.total)?);
        Ok(difference(self.subject, self.trial, &a, &b, names))
    }

    fn determinism(&self) -> Seen {
        let all = self.trial.all();
        let (mut one, mut other) = (self.after(&[&all])?, self.after(&[&all])?);
        self.compare(&mut one, &mut other, ["in one instance", "in another"])
    }

    fn split_invariance(&self) -> Seen {
        let all = self.trial.all();
        let parts: Vec<&[u32]> = (0..self.trial.parts.len()).map(|part| self.part(part)).collect();
        // in the order of the parts, for both
        let together: Vec<u32> = parts.concat();
        debug_assert_eq!(together.len(), all.len());
        let (mut one, mut many) = (self.after(&[&together])?, self.after(&parts)?);
        self.compare(&mut one, &mut many, ["as one batch", "as several"])
    }

    fn row_order(&self) -> Seen {
        let all = self.trial.all();
        let reversed: Vec<u32> = all.iter().rev().copied().collect();
        let (mut one, mut other) = (self.after(&[&all])?, self.after(&[&reversed])?);
        self.compare(&mut one, &mut other, ["in this order", "in reverse order"])
    }

    fn merge_commutative(&self) -> Seen {
        let (a, b) = (self.part(0), self.part(1));
        let (mut ab, mut from_b) = (self.after(&[a])?, self.after(&[b])?);
        self.merged(&mut ab, &mut from_b, &self.groups_of(b))?;
        let (mut ba, mut from_a) = (self.after(&[b])?, self.after(&[a])?);
        self.merged(&mut ba, &mut from_a, &self.groups_of(a))?;
        self.compare(&mut ab, &mut ba, ["as A + B", "as B + A"])
    }

    fn merge_associative(&self) -> Seen {
        let (a, b, c) = (self.part(0), self.part(1), self.part(2));
        let (mut left, mut from_b, mut from_c) = (self.after(&[a])?, self.after(&[b])?, self.after(&[c])?);
        self.merged(&mut left, &mut from_b, &self.groups_of(b))?;
        self.merged(&mut left, &mut from_c, &self.groups_of(c))?;
        let (mut right, mut bc) = (self.after(&[a])?, self.after(&[b])?);
        self.merged(&mut bc, &mut from_c, &self.groups_of(c))?;
        self.merged(&mut right, &mut bc, &self.groups_of(&[b, c].concat()))?;
        self.compare(&mut left, &mut right, ["as (A + B) + C", "as A + (B + C)"])
    }

    fn merge_is_update(&self) -> Seen {
        let parts: Vec<&[u32]> = (0..self.trial.parts.len()).map(|part| self.part(part)).collect();
        let mut whole = self.after(&[&parts.concat()])?;
        let mut merged = self.after(parts.get(..1).unwrap_or_default())?;
        for rows in parts.iter().skip(1) {
            let mut from = self.after(&[rows])?;
            self.merged(&mut merged, &mut from, &self.groups_of(rows))?;
        }
        self.compare(&mut whole, &mut merged, ["from all rows", "from merged parts"])
    }

    fn combine_is_merge(&self) -> Seen {
        let (a, b) = (self.part(0), self.part(1));
        let total = self.trial.total;
        let mut merged = self.after(&[a])?;
        let mut from = self.after(&[b])?;
        let groups = self.groups_of(b);
        self.merged(&mut merged, &mut from, &groups)?;
        // A in the lower slots, B in the upper ones
        let mut combined = self.subject.open()?;
        combined.update_at(self.trial, a, 0, total * 2)?;
        combined.update_at(self.trial, b, total, total * 2)?;
        let sources: Vec<u32> = groups.iter().map(|group| group + total).collect();
        combined.plugin.combine(&sources, &groups)?;
        let view = combined.view(total * 2)?;
        let upper: View = view.iter().filter_map(|(g, t)| Some((g.checked_sub(total)?, t.clone()))).collect();
        let names = ["by `merge`", "by `combine`"];
        let lower = difference(self.subject, self.trial, &merged.view(total)?, &view, names);
        Ok(lower.or(difference(
            self.subject,
            self.trial,
            &from.view(total)?,
            &upper,
            ["before it was the source of `combine`", "after it"],
        )))
    }

    fn save_load(&self) -> Seen {
        let (a, rest) = (self.part(0), [self.part(1), self.part(2)].concat());
        let mut saved = self.after(&[a])?;
        let chunks = saved.export(&self.groups_of(a), 1)?;
        let mut loaded = self.subject.open()?;
        loaded.merge(&chunks, self.trial.total)?;
        // both know all groups
        saved.merge(&[], self.trial.total)?;
        let names = ["before it was saved", "after it was loaded"];
        if let Some(found) = self.compare(&mut saved, &mut loaded, names)? {
            return Ok(Some(found));
        }
        saved.update(self.trial, &rest)?;
        loaded.update(self.trial, &rest)?;
        self.compare(&mut saved, &mut loaded, ["going on as it was", "going on from what was loaded"])
    }

    fn reset(&self) -> Seen {
        let (a, rest) = (self.part(0), [self.part(1), self.part(2)].concat());
        let total = self.trial.total;
        let mut used = self.after(&[a])?;
        used.merge(&[], total)?;
        let before = used.view(total)?;
        let emptied: Vec<u32> = (0..total).step_by(2).collect();
        used.plugin.reset(&emptied)?;
        let mut fresh = self.subject.open()?;
        fresh.merge(&[], total)?;
        let empty = fresh.view(total)?;
        let expected: View = before
            .into_iter()
            .map(|(g, t)| (g, if g % 2 == 0 { empty.get(&g).cloned().unwrap_or(t) } else { t }))
            .collect();
        let names = ["in a fresh instance, or before its neighbour was reset", "after `reset`"];
        let now = used.view(total)?;
        if let Some(found) = difference(self.subject, self.trial, &expected, &now, names) {
            return Ok(Some(found));
        }
        used.plugin.reset(&(0..total).collect::<Vec<_>>())?;
        used.update(self.trial, &rest)?;
        fresh.update(self.trial, &rest)?;
        self.compare(&mut fresh, &mut used, ["in a fresh slot", "in a slot used again"])
    }

    fn rejected_rows(&self) -> Seen {
        let all = self.trial.all();
        let mut with = self.subject.open()?;
        let rejected = with.update(self.trial, &all)?;
        let good: Vec<u32> =
            all.iter().enumerate().filter(|(at, _)| rejected.binary_search(at).is_err()).map(|(_, row)| *row).collect();
        let mut without = self.after(&[&good])?;
        without.merge(&[], self.trial.total)?;
        self.compare(&mut with, &mut without, ["with its rejected rows", "without them"])
    }

    fn migrate(&self) -> Seen {
        let all = self.trial.all();
        let mut instance = self.after(&[&all])?;
        let info = self.subject.node.factory.info();
        let origin = StateOrigin {
            name: info.name.clone(),
            version: info.version.clone(),
            config: self.subject.node.spec.config.clone(),
            state: self.subject.signature.state.clone(),
        };
        let mut chunks = instance.export_all(&self.groups_of(&all))?;
        for chunk in &mut chunks {
            match instance.plugin.migrate(&origin, &chunk.columns)? {
                Some(columns) => chunk.columns = columns,
                None => return Ok(Some("it says that it cannot migrate its own state".to_owned())),
            }
        }
        let mut migrated = self.subject.open()?;
        migrated.merge(&chunks, self.trial.total)?;
        self.compare(&mut instance, &mut migrated, ["before", "after `migrate`"])
    }
}
