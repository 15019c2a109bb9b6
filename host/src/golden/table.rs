//! Result rows as text cells, in an order that does not depend on how they came out.

use std::cmp::Ordering;

use arrow_array::RecordBatch;
use millrace_core::schema::{DataType, Schema};

use crate::sink::json::Column;
use crate::spec::columns::{WINDOW_END, WINDOW_START};

/// One value: JSON text, none for null.
pub type Cell = Option<String>;

/// Rows of one schema. The first `identity` columns (window and key) say which row is meant.
#[derive(Clone, Debug)]
pub struct Table {
    pub columns: Vec<Head>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub name: String,
    pub data_type: DataType,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// window and key: which row
    Identity,
    WindowEnd,
    /// what the plugin gave
    Value,
}

impl Table {
    /// The results of an aggregation: `window_start` first, then the key, `window_end`, the plugin's columns; in order of
    /// window and key, rows of one group as the plugin gave them.
    pub fn of_results(schema: &Schema, key_columns: usize, batches: &[RecordBatch]) -> Self {
        let start = schema.index_of(WINDOW_START);
        let order: Vec<usize> = start
            .into_iter()
            .chain(0..key_columns)
            .chain((key_columns..schema.fields.len()).filter(|index| Some(*index) != start))
            .collect();
        let mut table = Self::of(schema, &order, batches);
        for (index, head) in table.columns.iter_mut().enumerate() {
            head.role = match head.name.as_str() {
                WINDOW_END => Role::WindowEnd,
                _ if index <= key_columns => Role::Identity,
                _ => Role::Value,
            };
        }
        table.sort();
        table
    }

    /// Rows in the order in which they came.
    pub fn of_rows(schema: &Schema, batches: &[RecordBatch]) -> Self {
        Self::of(schema, &(0..schema.fields.len()).collect::<Vec<_>>(), batches)
    }

    /// These columns of some batches.
    pub fn of(schema: &Schema, order: &[usize], batches: &[RecordBatch]) -> Self {
        let columns = order
            .iter()
            .filter_map(|index| schema.fields.get(*index))
            .map(|f| Head { name: f.name.clone(), data_type: f.data_type, role: Role::Value })
            .collect();
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<Option<Column<'_>>> =
                order.iter().map(|index| batch.columns().get(*index).and_then(|c| Column::new(c))).collect();
            for row in 0..batch.num_rows() {
                rows.push(columns.iter().map(|column| cell(column.as_ref(), row)).collect());
            }
        }
        Self { columns, rows }
    }

    pub fn sort(&mut self) {
        let identity: Vec<usize> = self.with_role(Role::Identity);
        self.rows.sort_by(|a, b| {
            identity
                .iter()
                .map(|&index| order(a.get(index), b.get(index)))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        });
    }

    pub fn with_role(&self, role: Role) -> Vec<usize> {
        self.columns.iter().enumerate().filter(|(_, head)| head.role == role).map(|(index, _)| index).collect()
    }

    pub fn identity(&self, row: &[Cell]) -> Vec<Cell> {
        self.with_role(Role::Identity).into_iter().map(|index| row.get(index).cloned().flatten()).collect()
    }

    /// `name value  name value` of these columns; nulls are left out unless that leaves nothing.
    pub fn show(&self, row: &[Cell], columns: &[usize]) -> String {
        let shown: Vec<String> = columns
            .iter()
            .filter_map(|&index| {
                let (head, cell) = (self.columns.get(index)?, row.get(index)?.as_ref()?);
                Some(format!("{} {}", head.name, bare(head, cell)))
            })
            .collect();
        if shown.is_empty() { "all null".to_owned() } else { shown.join("  ") }
    }
}

fn cell(column: Option<&Column<'_>>, row: usize) -> Cell {
    let column = column.filter(|column| !column.is_null(row))?;
    let mut text = Vec::new();
    column.write_json(&mut text, row);
    String::from_utf8(text).ok()
}

/// Numbers by value, all else by text; null first.
fn order(a: Option<&Cell>, b: Option<&Cell>) -> Ordering {
    let (a, b) = (a.and_then(Option::as_deref), b.and_then(Option::as_deref));
    match (a, b) {
        (Some(a), Some(b)) => match (a.parse::<i128>(), b.parse::<i128>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        },
        _ => a.cmp(&b),
    }
}

/// Times without their quotes: they cannot be mistaken for anything else.
pub fn bare(head: &Head, cell: &str) -> String {
    match head.data_type {
        DataType::Timestamp | DataType::Timestamptz | DataType::Date => cell.trim_matches('"').to_owned(),
        _ => cell.to_owned(),
    }
}

/// Whether two values are equal: exactly, or floats within a relative tolerance (absolute below 1).
pub fn equal(data_type: DataType, a: &Cell, b: &Cell, tolerance: Option<f64>) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b), Some(tolerance)) = (a, b, tolerance) else { return false };
    match data_type {
        DataType::Float | DataType::Double => near(number(a), number(b), tolerance),
        DataType::ListDouble => {
            let items = |text: &str| serde_json::from_str::<Vec<serde_json::Value>>(text).unwrap_or_default();
            let (a, b) = (items(a), items(b));
            a.len() == b.len()
                && a.iter().zip(&b).all(|(a, b)| near(number(&a.to_string()), number(&b.to_string()), tolerance))
        }
        _ => false,
    }
}

fn number(text: &str) -> f64 {
    text.trim_matches('"').parse().unwrap_or(f64::NAN)
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
}
