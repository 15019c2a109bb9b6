//! What differs between what a case expects and what came out: only that, aligned, in the order of windows and keys.

use std::fmt;

use super::operator::StepOutcome;
use super::table::{Cell, Role, Table, bare, equal};

/// All that differs in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// from 1
    pub step: usize,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// a row that came out, with other values
    Row {
        which: String,
        columns: Vec<ColumnDiff>,
    },
    Missing {
        which: String,
        values: String,
    },
    Unexpected {
        which: String,
        values: String,
    },
    Rejected {
        expected: Vec<String>,
        got: Vec<String>,
    },
    Late {
        expected: u64,
        got: u64,
        reasons: Vec<String>,
    },
}

impl Line {
    /// The step's key that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Row { .. } | Self::Missing { .. } | Self::Unexpected { .. } => "expect",
            Self::Rejected { .. } => "rejected",
            Self::Late { .. } => "late",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDiff {
    pub column: String,
    pub expected: String,
    pub got: String,
}

/// Compares one step. `expected` may leave `window_start` out where all rows of the step are of one window.
pub fn compare(
    step: usize,
    mut expected: Table,
    got: &Table,
    counts: (&[String], u64),
    outcome: &StepOutcome,
    tolerance: Option<f64>,
) -> Option<Difference> {
    fill_window(&mut expected, got);
    expected.sort();
    let mut lines = rows(&expected, got, tolerance);
    let (rejected, late) = counts;
    let sorted = |reasons: &[String]| {
        let mut reasons = reasons.to_vec();
        reasons.sort();
        reasons
    };
    let (wanted, refused) = (sorted(rejected), sorted(&outcome.rejected));
    if wanted != refused {
        lines.push(Line::Rejected { expected: wanted, got: refused });
    }
    let came_late = u64::try_from(outcome.late.len()).unwrap_or(u64::MAX);
    if came_late != late {
        lines.push(Line::Late { expected: late, got: came_late, reasons: sorted(&outcome.late) });
    }
    (!lines.is_empty()).then_some(Difference { step, lines })
}

fn fill_window(expected: &mut Table, got: &Table) {
    let window = |row: &Vec<Cell>| row.first().cloned().flatten();
    let first = got.rows.first().and_then(window);
    if first.is_some() && got.rows.iter().all(|row| window(row) == first) {
        for row in &mut expected.rows {
            if let Some(cell @ None) = row.first_mut() {
                cell.clone_from(&first);
            }
        }
    }
}

fn rows(expected: &Table, got: &Table, tolerance: Option<f64>) -> Vec<Line> {
    let (identity, values) = (expected.with_role(Role::Identity), expected.with_role(Role::Value));
    // a row without window and key is known by its number
    let which = |number: usize, row: &[Cell]| match identity.as_slice() {
        [] => format!("row {number}"),
        some => expected.show(row, some),
    };
    let mut lines = Vec::new();
    let mut left: Vec<(usize, &Vec<Cell>)> = (1..).zip(&got.rows).collect();
    for (number, row) in (1..).zip(&expected.rows) {
        let same = left.iter().position(|(_, candidate)| got.identity(candidate) == expected.identity(row));
        let Some((_, found)) = same.map(|index| left.remove(index)) else {
            lines.push(Line::Missing { which: which(number, row), values: expected.show(row, &values) });
            continue;
        };
        let columns: Vec<ColumnDiff> = expected
            .columns
            .iter()
            .zip(row.iter().zip(found))
            .filter(|(head, (want, have))| {
                // the end follows from the start; whoever writes it down wants it compared
                let matters = head.role == Role::Value || (head.role == Role::WindowEnd && want.is_some());
                matters && !equal(head.data_type, want, have, tolerance)
            })
            .map(|(head, (want, have))| {
                let show = |cell: &Cell| cell.as_ref().map_or_else(|| "null".to_owned(), |cell| bare(head, cell));
                ColumnDiff { column: head.name.clone(), expected: show(want), got: show(have) }
            })
            .collect();
        if !columns.is_empty() {
            lines.push(Line::Row { which: which(number, row), columns });
        }
    }
    lines.extend(
        left.into_iter()
            .map(|(number, row)| Line::Unexpected { which: which(number, row), values: got.show(row, &values) }),
    );
    lines
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  step {}", self.step)?;
        for line in &self.lines {
            match line {
                Line::Row { which, columns } => {
                    writeln!(f, "    {which}")?;
                    let width = |pick: fn(&ColumnDiff) -> &str| {
                        columns.iter().map(|c| pick(c).chars().count()).max().unwrap_or(0)
                    };
                    let (name, want) = (width(|c| &c.column), width(|c| &c.expected));
                    for c in columns {
                        writeln!(f, "      {:name$}  expected {:want$}  got {}", c.column, c.expected, c.got)?;
                    }
                }
                Line::Missing { which, values } => writeln!(f, "    {which}\n      missing: {values}")?,
                Line::Unexpected { which, values } => writeln!(f, "    {which}\n      not expected: {values}")?,
                Line::Rejected { expected, got } => {
                    writeln!(f, "    rejected rows: expected {}, got {}", expected.len(), got.len())?;
                    for reason in expected.iter().filter(|reason| !got.contains(reason)) {
                        writeln!(f, "      missing: {reason}")?;
                    }
                    for reason in got.iter().filter(|reason| !expected.contains(reason)) {
                        writeln!(f, "      not expected: {reason}")?;
                    }
                }
                Line::Late { expected, got, reasons } => {
                    writeln!(f, "    late rows: expected {expected}, got {got}")?;
                    for reason in reasons {
                        writeln!(f, "      {reason}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
