//! Rows as an aligned table on standard output. For people: nothing is promised about its form, values are cut to a
//! width, and characters that would steer the terminal are replaced.
//!
//! Column widths grow with what is seen and never shrink, so lines stay aligned; the header is repeated when they grow.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use millrace_core::batch::{Change, RowSet};

use super::json::Column;
use super::rows::for_each_row;
use super::{Prepared, Result, SinkError, SinkWriter};

/// The widest cell.
const CELL_CHARS_MAX: usize = 40;
/// The widest line, where the terminal's width is not known.
const LINE_CHARS_MAX: usize = 200;
const SEPARATOR: &str = "  ";

/// One task's rows.
pub struct ConsoleSink {
    node: Arc<str>,
    out: Box<dyn Write + Send>,
    line_chars_max: usize,
    schema: Option<SchemaRef>,
    widths: Vec<usize>,
}

impl ConsoleSink {
    pub fn new(node: &str) -> Self {
        // what the shell says of the terminal; everything else cuts at a fixed width
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(LINE_CHARS_MAX);
        Self::to(node, Box::new(io::stdout()), columns)
    }

    pub fn to(node: &str, out: Box<dyn Write + Send>, line_chars_max: usize) -> Self {
        Self { node: node.into(), out, line_chars_max, schema: None, widths: Vec::new() }
    }

    fn line(&self, into: &mut String, cells: &[String], right: &[bool]) {
        let mut left = self.line_chars_max;
        for (i, (cell, width)) in cells.iter().zip(&self.widths).enumerate() {
            if i > 0 {
                into.push_str(SEPARATOR);
                left = left.saturating_sub(SEPARATOR.len());
            }
            if left < *width {
                into.push('…');
                break;
            }
            let pad = width.saturating_sub(cell.chars().count());
            let spaces = std::iter::repeat_n(' ', pad);
            if right.get(i).copied().unwrap_or(false) {
                into.extend(spaces);
                into.push_str(cell);
            } else {
                into.push_str(cell);
                into.extend(spaces);
            }
            left = left.saturating_sub(*width);
        }
        into.truncate(into.trim_end_matches(' ').len());
        into.push('\n');
    }
}

impl SinkWriter for ConsoleSink {
    fn write(&mut self, rows: &RowSet) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let batch = &rows.batch.rows;
        let columns: Vec<Option<Column<'_>>> = batch.columns().iter().map(|c| Column::new(c.as_ref())).collect();
        let changes = rows.batch.changes.as_ref();

        let mut header: Vec<String> = batch.schema_ref().fields().iter().map(|f| cell(f.name().as_bytes())).collect();
        let mut right: Vec<bool> = columns.iter().map(|c| c.as_ref().is_some_and(Column::is_number)).collect();
        if changes.is_some() {
            header.insert(0, String::new());
            right.insert(0, false);
        }
        let mut table: Vec<Vec<String>> = Vec::with_capacity(rows.len());
        let mut text = Vec::new();
        for_each_row(rows, |row| {
            let mark = changes.map(|c| {
                match c.kinds.get(row) {
                    Some(Change::Insert) | None => "+",
                    Some(Change::Replace) => "~",
                    Some(Change::Delete) => "-",
                }
                .to_owned()
            });
            let values = columns.iter().map(|column| match column {
                Some(column) if !column.is_null(row) => {
                    text.clear();
                    column.write_text(&mut text, row);
                    cell(&text)
                }
                Some(_) => "-".to_owned(),
                None => "?".to_owned(),
            });
            table.push(mark.into_iter().chain(values).collect());
            Ok(())
        })?;

        let mut repeat_header = false;
        if self.schema.as_ref() != Some(batch.schema_ref()) || self.widths.len() != header.len() {
            self.schema = Some(batch.schema());
            self.widths = vec![0; header.len()];
            repeat_header = true;
        }
        for cells in std::iter::once(&header).chain(&table) {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                let chars = cell.chars().count();
                if chars > *width {
                    *width = chars;
                    repeat_header = true;
                }
            }
        }
        let mut lines = String::new();
        if repeat_header {
            self.line(&mut lines, &header, &right);
        }
        for cells in &table {
            self.line(&mut lines, cells, &right);
        }
        // one call for all lines: tasks that share the terminal do not tear each other's rows apart
        self.out.write_all(lines.as_bytes()).map_err(|e| self.failed(&e))
    }

    fn prepare(&mut self, _checkpoint: u64) -> Result<Prepared> {
        self.out.flush().map_err(|e| self.failed(&e))?;
        Ok(Prepared::default())
    }
}

impl ConsoleSink {
    fn failed(&self, error: &io::Error) -> SinkError {
        SinkError::Fatal(match error.kind() {
            io::ErrorKind::BrokenPipe => {
                format!("sink `{}`: whoever read the standard output has closed it", self.node)
            }
            _ => format!("sink `{}`: writing to the standard output: {error}", self.node),
        })
    }
}

/// A value as a cell: no control characters (a value must not steer the terminal), not too wide.
fn cell(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut cell: String =
        text.chars().take(CELL_CHARS_MAX).map(|c| if c.is_control() || is_bidi(c) { '·' } else { c }).collect();
    if text.chars().nth(CELL_CHARS_MAX).is_some() {
        cell.pop();
        cell.push('…');
    }
    cell
}

/// Characters that turn the direction of the text around them.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use millrace_core::batch::{Audience, Batch, Changes};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn rows(names: Vec<&str>, counts: Vec<Option<i64>>, changes: Option<Changes>) -> RowSet {
        let names: ArrayRef = Arc::new(StringArray::from(names));
        let counts: ArrayRef = Arc::new(Int64Array::from(counts));
        let rows = RecordBatch::try_from_iter_with_nullable([("name", names, false), ("count", counts, true)])
            .expect("a batch");
        let event_time_ms = vec![0; rows.num_rows()].into();
        RowSet::all(Batch { rows, event_time_ms, origin: None, changes })
    }

    fn shown(sets: &[RowSet], width: usize) -> String {
        let out = Shared::default();
        let mut sink = ConsoleSink::to("c", Box::new(out.clone()), width);
        for set in sets {
            sink.write(set).expect("writes");
        }
        String::from_utf8(out.0.lock().expect("no panic").clone()).expect("UTF-8")
    }

    #[test]
    fn columns_are_aligned_and_the_header_comes_again_only_when_they_grow() {
        let first = rows(vec!["a", "bcd"], vec![Some(1), Some(100)], None);
        let same = rows(vec!["e"], vec![None], None);
        let wider = rows(vec!["fghijk"], vec![Some(7)], None);
        assert_eq!(
            shown(&[first, same, wider], 80),
            "name  count\na         1\nbcd     100\ne         -\nname    count\nfghijk      7\n"
        );
    }

    #[test]
    fn values_can_neither_steer_the_terminal_nor_flood_it() {
        let long = "x".repeat(1_000);
        let text = shown(&[rows(vec!["\u{1b}[2J\n\u{202e}", &long], vec![Some(1), Some(2)], None)], 80);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        let narrow = shown(&[rows(vec![&long], vec![Some(1)], None)], 41);
        assert!(narrow.lines().all(|l| l.chars().count() <= 43 && l.ends_with('…')), "{narrow}");
    }

    #[test]
    fn changes_are_marked() {
        let changes = Changes {
            kinds: vec![Change::Insert, Change::Replace, Change::Delete].into(),
            revisions: vec![1, 2, 3].into(),
            is_final: false,
            audience: Audience::Sinks,
        };
        let text = shown(&[rows(vec!["a", "b", "c"], vec![Some(1); 3], Some(changes))], 80);
        assert_eq!(text.lines().skip(1).map(|l| &l[..1]).collect::<String>(), "+~-");
    }
}
