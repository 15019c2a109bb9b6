//! What crosses in a call, checked on both ways: columns for the guest against its signature (the host's own mistakes do
//! not reach it), and row and group numbers that come back.

use std::collections::HashSet;

use arrow_array::{Array as _, ArrayRef};
use millrace_core::schema::Field;

use crate::plugin::arrow::lower::{Lowered, lower};
use crate::plugin::bindings::types::{self, Encoding};
use crate::plugin::bindings::{check_fields, wanted_from_wit};
use crate::plugin::limits::{TEXT_BYTES_MAX, cut};
use crate::plugin::{Rejected, Wanted};

type Checked<T> = std::result::Result<T, String>;

/// The input columns of a signature, and how each wants its strings.
pub(super) fn wanted(what: &str, wit: Vec<types::Wanted>) -> Checked<(Vec<Wanted>, Vec<Encoding>)> {
    let (wanted, encodings): (Vec<_>, Vec<_>) = wit.into_iter().map(wanted_from_wit).unzip();
    check_fields(what, wanted.iter().map(|w| &w.field))?;
    Ok((wanted, encodings))
}

/// Input columns, borrowed for a call.
pub(super) fn lower_wanted<'a>(
    columns: &'a [Option<ArrayRef>],
    wanted: &[Wanted],
    encodings: &[Encoding],
    rows: usize,
) -> Checked<Vec<Lowered<'a>>> {
    if columns.len() != wanted.len() {
        return Err(format!("the host has {} columns, the plugin wants {}", columns.len(), wanted.len()));
    }
    let lower_it = |((column, wanted), encoding): ((&'a Option<ArrayRef>, &Wanted), &Encoding)| match column {
        Some(column) => lower_one(column, &wanted.field, rows, *encoding),
        None if wanted.optional => Ok(Lowered::MISSING),
        None => Err(format!("column `{}` is missing, but not optional", wanted.field.name)),
    };
    columns.iter().zip(wanted).zip(encodings).map(lower_it).collect()
}

/// State columns, borrowed for a call.
pub(super) fn lower_fields<'a>(columns: &'a [ArrayRef], fields: &[Field], rows: usize) -> Checked<Vec<Lowered<'a>>> {
    if columns.len() != fields.len() {
        return Err(format!("the host has {} state columns, the plugin {}", columns.len(), fields.len()));
    }
    columns.iter().zip(fields).map(|(column, field)| lower_one(column, field, rows, Encoding::Plain)).collect()
}

fn lower_one<'a>(column: &'a ArrayRef, field: &Field, rows: usize, encoding: Encoding) -> Checked<Lowered<'a>> {
    if column.len() != rows {
        return Err(format!("column `{}` has {} rows, the call has {rows}", field.name, column.len()));
    }
    if !field.nullable && column.logical_null_count() > 0 {
        return Err(format!("column `{}` has nulls, the plugin was promised none", field.name));
    }
    lower(column, field.data_type, encoding).map_err(|e| format!("column `{}`: {e}", field.name))
}

/// Every row belongs to a slot that exists.
pub(super) fn check_slots(groups: &[u32], total_groups: u32) -> Checked<()> {
    match groups.iter().find(|g| **g >= total_groups) {
        Some(group) => Err(format!("the host has a row for group {group} of {total_groups}")),
        None => Ok(()),
    }
}

/// The plugin may answer for the groups that it was asked for, no other.
pub(super) fn check_answered(answered: &[u32], asked: &[u32]) -> Checked<()> {
    // The common answer repeats the question, or a part of it, in its order; a group may have several rows.
    let mut question = asked.iter();
    let mut last = None;
    if answered.iter().all(|group| {
        last == Some(group) || {
            last = Some(group);
            question.any(|asked| asked == group)
        }
    }) {
        return Ok(());
    }
    let known: HashSet<_> = asked.iter().collect();
    match answered.iter().find(|g| !known.contains(g)) {
        Some(group) => Err(format!("returned a row for group {group}, which it was not asked for")),
        None => Ok(()),
    }
}

/// Output rows name the input rows (or pairs) that they came from, in order.
pub(super) fn check_origins(origins: &[u32], total: usize) -> Checked<()> {
    if let Some(row) = origins.windows(2).position(|pair| pair.first() > pair.last()) {
        return Err(format!("origins decrease after output row {row}"));
    }
    match origins.last() {
        Some(&last) if last as usize >= total => {
            Err(format!("output row {} has origin {last}, there are {total}", origins.len().saturating_sub(1)))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_rejected(rejected: Vec<types::Rejected>, rows: usize) -> Checked<Vec<Rejected>> {
    let mut seen = HashSet::new();
    let mut checked = Vec::with_capacity(rejected.len().min(rows));
    for types::Rejected { row, reason } in rejected {
        if row as usize >= rows {
            return Err(format!("rejected row {row}, there are {rows}"));
        }
        if !seen.insert(row) {
            return Err(format!("rejected row {row} twice"));
        }
        checked.push(Rejected { row, reason: cut(reason, TEXT_BYTES_MAX) });
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::{check_answered, check_origins};

    #[test]
    fn answers_are_of_groups_that_were_asked_for() {
        let asked = [7, 3, 9, 1];
        for answered in [&[][..], &[7, 3, 9, 1], &[3, 9], &[7, 7, 1, 1], &[1, 7], &[9, 3, 9]] {
            assert_eq!(check_answered(answered, &asked), Ok(()), "{answered:?}");
        }
        for (answered, stranger) in [(&[4][..], 4), (&[7, 3, 2], 2), (&[1, 0, 7], 0), (&[7, 3, 9, 1, 5], 5)] {
            let why = format!("returned a row for group {stranger}, which it was not asked for");
            assert_eq!(check_answered(answered, &asked), Err(why), "{answered:?}");
        }
    }

    #[test]
    fn origins_are_in_range_and_in_order() {
        assert_eq!(check_origins(&[], 0), Ok(()));
        assert_eq!(check_origins(&[0, 0, 2, 2], 3), Ok(()));
        assert_eq!(check_origins(&[0, 2, 1], 3), Err("origins decrease after output row 1".to_owned()));
        assert_eq!(check_origins(&[0, 3], 3), Err("output row 1 has origin 3, there are 3".to_owned()));
    }
}
