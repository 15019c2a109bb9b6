//! Two versions' results of the same groups, compared: which differ, in which column, by how much, and whether that can
//! be put down to what the shadow took over.

use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{Array as _, ArrayRef};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType as ArrowType;
use millrace_core::key;
use millrace_core::limits::SHADOW_DIFFERENCES_MAX;
use millrace_core::schema::{Field, Schema};
use millrace_core::swap::{ColumnDifference, Difference, ShadowReport};

use super::super::message::RunError;
use super::super::status::Since;
use super::companion::AskedGroup;
use crate::plugin::OutputRows;

/// Rows of results, and which of the groups asked for each belongs to.
pub struct Results {
    pub columns: Vec<ArrayRef>,
    pub picks: Vec<u32>,
}

impl Results {
    /// `slots`: as they were asked for.
    pub fn of(output: OutputRows, slots: &[u32]) -> Result<Self, String> {
        let Some(groups) = output.groups else {
            return Ok(Self { columns: output.columns, picks: (0_u32..).take(slots.len()).collect() });
        };
        let place: std::collections::HashMap<u32, u32> = slots.iter().copied().zip(0_u32..).collect();
        let picks: Vec<u32> = groups.iter().filter_map(|slot| place.get(slot).copied()).collect();
        match picks.len() == groups.len() {
            true => Ok(Self { columns: output.columns, picks }),
            false => Err("it returned a row for a group that was not asked for".to_owned()),
        }
    }

    /// By group asked for, its rows.
    fn rows(&self, groups: usize) -> Vec<Vec<usize>> {
        let mut rows = vec![Vec::new(); groups];
        for (row, pick) in self.picks.iter().enumerate() {
            if let Some(of) = rows.get_mut(*pick as usize) {
                of.push(row);
            }
        }
        rows
    }
}

/// One operator's, over all its tasks.
pub struct Comparison {
    key: Vec<Field>,
    old: Schema,
    new: Schema,
    report: Mutex<State>,
}

#[derive(Default)]
struct State {
    report: ShadowReport,
    windows: std::collections::BTreeSet<(i64, i64)>,
    /// of each task, what the old and the new version take from when both are told the same
    taken: Vec<(Since, Since)>,
}

/// A column that both have.
struct Pair {
    name: String,
    old: ArrayRef,
    new: ArrayRef,
    numbers: Option<(ArrayRef, ArrayRef)>,
    is_equal: bool,
}

impl Comparison {
    pub fn new(key: Vec<Field>, old: Schema, new: Schema, tolerance: f64) -> Self {
        let lacks = |of: &Schema, other: &Schema| -> Vec<String> {
            of.fields.iter().filter(|f| other.field(&f.name).is_none()).map(|f| f.name.clone()).collect()
        };
        let (only_in_old, only_in_new) = (lacks(&old, &new), lacks(&new, &old));
        let report = ShadowReport { tolerance, only_in_old, only_in_new, ..ShadowReport::default() };
        let state = State { report, ..State::default() };
        Self { key, old, new, report: Mutex::new(state) }
    }

    pub fn report(&self) -> ShadowReport {
        let state = self.lock();
        let per_row = |which: fn(&(Since, Since)) -> &Since| {
            let taken = state.taken.iter().map(|pair| which(pair).taken());
            let (cpu_ns, rows) = taken.fold((0, 0), |(cpu_ns, rows), (ns, n)| (cpu_ns + ns, rows + n));
            (rows > 0).then(|| cpu_ns as f64 / rows as f64)
        };
        let (old_ns_per_row, new_ns_per_row) = (per_row(|(old, _)| old), per_row(|(_, new)| new));
        ShadowReport { old_ns_per_row, new_ns_per_row, ..state.report.clone() }
    }

    /// In one more task the two are told the same from now on.
    pub fn measure(&self, old: Since, new: Since) {
        self.lock().taken.push((old, new));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `warm_until_ms`: windows that start before it hold what the old version had counted.
    pub fn compare(
        &self,
        groups: &[AskedGroup],
        old: &Results,
        new: &Results,
        warm_until_ms: Option<i64>,
    ) -> Result<(), RunError> {
        let pairs = self.pairs(old, new)?;
        let all_equal = old.picks == new.picks && pairs.iter().all(|pair| pair.is_equal);
        let mut state = self.lock();
        state.windows.extend(groups.iter().map(|group| (group.window.start_ms, group.window.end_ms)));
        state.report.windows = state.windows.len() as u64;
        state.report.compared += groups.len() as u64;
        if all_equal {
            return Ok(());
        }
        let tolerance = state.report.tolerance;
        let report = &mut state.report;
        let (old_rows, new_rows) = (old.rows(groups.len()), new.rows(groups.len()));
        for (group, (old, new)) in groups.iter().zip(old_rows.iter().zip(&new_rows)) {
            let is_warm_up = warm_until_ms.is_some_and(|ms| group.window.start_ms < ms);
            let count =
                |different: &mut u64, in_warm_up: &mut u64| *(if is_warm_up { in_warm_up } else { different }) += 1;
            match (old.is_empty(), new.is_empty()) {
                (true, true) => continue,
                (false, true) if is_warm_up => report.different_in_warm_up += 1,
                (true, false) if is_warm_up => report.different_in_warm_up += 1,
                (false, true) => report.only_old += 1,
                (true, false) => report.only_new += 1,
                (false, false) if old.len() != new.len() => {
                    count(&mut report.different, &mut report.different_in_warm_up);
                }
                (false, false) => {
                    let mut differs = false;
                    for pair in pairs.iter().filter(|pair| !pair.is_equal) {
                        let largest = old.iter().zip(new).map(|(old, new)| (pair.relative(*old, *new), *old, *new));
                        let Some((relative, old, new)) = largest.max_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
                        if relative <= tolerance {
                            continue;
                        }
                        differs = true;
                        if !report.columns.iter().any(|c| c.column == pair.name) {
                            let column = ColumnDifference { column: pair.name.clone(), ..ColumnDifference::default() };
                            report.columns.push(column);
                        }
                        for column in report.columns.iter_mut().filter(|c| c.column == pair.name) {
                            count(&mut column.different, &mut column.different_in_warm_up);
                            column.largest_relative = column.largest_relative.max(relative);
                        }
                        if is_among_the_largest(&report.largest, relative, is_warm_up) {
                            let difference = self.difference(group, pair, old, new, relative, is_warm_up)?;
                            insert(&mut report.largest, difference);
                        }
                    }
                    if differs {
                        count(&mut report.different, &mut report.different_in_warm_up);
                    }
                }
            }
        }
        Ok(())
    }

    fn pairs(&self, old: &Results, new: &Results) -> Result<Vec<Pair>, RunError> {
        let mut pairs = Vec::new();
        for (at, field) in self.old.fields.iter().enumerate() {
            let other = self.new.fields.iter().position(|f| f.name == field.name);
            let (Some(a), Some(b)) = (old.columns.get(at), other.and_then(|at| new.columns.get(at))) else { continue };
            let is_equal = a.to_data() == b.to_data();
            let numbers = match is_equal || !(is_number(a.data_type()) && is_number(b.data_type())) {
                true => None,
                false => {
                    let double = |array: &ArrayRef| arrow_cast::cast(array, &ArrowType::Float64);
                    Some((double(a)?, double(b)?))
                }
            };
            let (old, new) = (std::sync::Arc::clone(a), std::sync::Arc::clone(b));
            pairs.push(Pair { name: field.name.clone(), old, new, numbers, is_equal });
        }
        Ok(pairs)
    }

    fn difference(
        &self,
        group: &AskedGroup,
        pair: &Pair,
        old: usize,
        new: usize,
        relative: f64,
        is_warm_up: bool,
    ) -> Result<Difference, RunError> {
        let key = key::decode(&self.key, std::iter::once(group.key.as_slice()))
            .map_err(|e| RunError::Internal(e.to_string()))?;
        let names = self.key.iter().map(|field| field.name.clone());
        let key = names.zip(key.iter().map(|column| text(column, 0))).collect();
        Ok(Difference {
            column: pair.name.clone(),
            window_start_ms: group.window.start_ms,
            window_end_ms: group.window.end_ms,
            key,
            old: text(&pair.old, old),
            new: text(&pair.new, new),
            relative,
            is_warm_up,
        })
    }
}

impl Pair {
    /// |new − old| / max(|old|, |new|); what is no number is the same or not.
    fn relative(&self, old: usize, new: usize) -> f64 {
        match (self.old.is_null(old), self.new.is_null(new)) {
            (true, true) => return 0.0,
            (true, false) | (false, true) => return 1.0,
            (false, false) => {}
        }
        let Some((olds, news)) = &self.numbers else {
            return f64::from(u8::from(self.old.slice(old, 1).to_data() != self.new.slice(new, 1).to_data()));
        };
        let value = |of: &ArrayRef, at: usize| of.as_primitive_opt::<Float64Type>().map_or(f64::NAN, |a| a.value(at));
        let (a, b) = (value(olds, old), value(news, new));
        if a == b || (a.is_nan() && b.is_nan()) {
            return 0.0;
        }
        let relative = (b - a).abs() / a.abs().max(b.abs());
        if relative.is_nan() { 1.0 } else { relative }
    }
}

fn is_number(of: &ArrowType) -> bool {
    of.is_numeric()
}

fn text(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("null");
    ArrayFormatter::try_new(column, &options).map_or_else(|e| e.to_string(), |f| f.value(row).to_string())
}

/// Real differences stand before those of the warm-up, then by size.
fn rank(is_warm_up: bool, relative: f64) -> (bool, f64) {
    (!is_warm_up, relative)
}

fn is_among_the_largest(largest: &[Difference], relative: f64, is_warm_up: bool) -> bool {
    largest.len() < SHADOW_DIFFERENCES_MAX
        || largest.last().is_some_and(|last| rank(is_warm_up, relative) > rank(last.is_warm_up, last.relative))
}

fn insert(largest: &mut Vec<Difference>, difference: Difference) {
    let own = rank(difference.is_warm_up, difference.relative);
    let at = largest.partition_point(|d| rank(d.is_warm_up, d.relative) >= own);
    largest.insert(at, difference);
    largest.truncate(SHADOW_DIFFERENCES_MAX);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::runtime::status::PluginGauges;

    #[test]
    fn what_a_row_takes_is_measured_over_all_tasks_from_when_both_were_told_the_same() {
        let comparison = Comparison::new(Vec::new(), Schema::default(), Schema::default(), 0.0);
        let gauges = || Arc::new(PluginGauges::default());
        let take = |gauges: &PluginGauges, cpu_ns, rows| {
            gauges.cpu_ns_total.fetch_add(cpu_ns, Relaxed);
            gauges.rows_total.fetch_add(rows, Relaxed);
        };
        let tasks = [(gauges(), gauges()), (gauges(), gauges())];
        for (old, new) in &tasks {
            // what the old one did before, and the new one's taking over of its state
            take(old, 77_000, 70);
            take(new, 50_000, 0);
            comparison.measure(Since::now(old), Since::now(new));
        }
        let speed = |report: ShadowReport| (report.old_ns_per_row, report.new_ns_per_row);
        assert_eq!(speed(comparison.report()), (None, None));
        take(&tasks[0].0, 1_000, 10);
        take(&tasks[1].0, 5_000, 30);
        take(&tasks[1].1, 300, 2);
        assert_eq!(speed(comparison.report()), (Some(150.0), Some(150.0)));
        take(&tasks[0].1, 700, 8);
        assert_eq!(speed(comparison.report()), (Some(150.0), Some(100.0)));
    }
}
