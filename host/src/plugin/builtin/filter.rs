//! The condition of `… filter (where CONDITION)`.

use arrow_array::{Array as _, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_buffer::NullBuffer;
use millrace_core::schema::Schema;

use super::Fallible;
use crate::expr;
use crate::plugin::Signature;

pub(super) struct Filter {
    condition: expr::Filter,
    /// the columns that it reads
    pub columns: Schema,
}

impl Filter {
    pub(super) fn new(sql: &str, offered: &Schema) -> Result<Self, expr::Wrong> {
        let names = super::parse::columns_of(sql)?;
        // the message about a column that is not there knows all that are
        expr::Filter::new(sql, offered)?;
        let columns = Schema::new(offered.fields.iter().filter(|f| names.contains(&f.name)).cloned().collect());
        Ok(Self { condition: expr::Filter::new(sql, &columns)?, columns })
    }

    /// Rows that pass are valid.
    pub(super) fn passing(
        &self,
        signature: &Signature,
        columns: &[Option<ArrayRef>],
        rows: usize,
    ) -> Fallible<NullBuffer> {
        let find = |name: &str| {
            let index = signature.input.iter().position(|w| w.field.name == name)?;
            columns.get(index)?.clone()
        };
        let columns: Option<Vec<ArrayRef>> = self.columns.fields.iter().map(|field| find(&field.name)).collect();
        let columns = columns.ok_or("a column of the filter is missing")?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.columns.to_arrow(), columns, &options);
        let passes = self.condition.evaluate(&batch.map_err(|e| e.to_string())?)?;
        // null is not true
        Ok(NullBuffer::new(passes.nulls().map_or(passes.values().clone(), |nulls| passes.values() & nulls.inner())))
    }
}
