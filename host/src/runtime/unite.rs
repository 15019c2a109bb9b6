//! Several inputs of one node, united by column name: each batch gets the columns of all.

use std::sync::Arc;

use arrow_array::{RecordBatch, new_null_array};
use arrow_schema::{ArrowError, SchemaRef};
use millrace_core::batch::Batch;
use millrace_core::schema::Schema;

/// How one input's batches become batches of the united columns.
pub struct Unite {
    schema: SchemaRef,
    /// by united column: the input's; none: it lacks it
    columns: Vec<Option<usize>>,
}

impl Unite {
    /// None: the input has these very columns.
    pub fn new(input: &Schema, united: &Schema) -> Option<Self> {
        (input != united).then(|| Self {
            schema: united.to_arrow(),
            columns: united.fields.iter().map(|field| input.index_of(&field.name)).collect(),
        })
    }

    pub fn apply(&self, batch: &Batch) -> Result<Batch, ArrowError> {
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| {
            match column.and_then(|i| batch.rows.columns().get(i)) {
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
                Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
                Some(column) => arrow_cast::cast(column, field.data_type()),
            }
        });
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)?;
        Ok(Batch { rows, ..batch.clone() })
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int32Array, StringArray};
    use millrace_core::schema::{DataType, Field};

    use super::*;

    #[test]
    fn a_missing_column_is_null_and_a_narrow_one_is_widened() {
        let input = Schema::new(vec![Field::new("n", DataType::Int, false), Field::new("s", DataType::String, false)]);
        let united = Schema::new(vec![
            Field::new("s", DataType::String, true),
            Field::new("country", DataType::String, true),
            Field::new("n", DataType::Long, true),
        ]);
        assert!(Unite::new(&input, &input).is_none());
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![7, -1])), Arc::new(StringArray::from(vec!["a", "b"]))];
        let batch = Batch {
            rows: RecordBatch::try_new(input.to_arrow(), columns).unwrap(),
            event_time_ms: [1, 2].into(),
            origin: None,
            changes: None,
        };
        let rows = Unite::new(&input, &united).unwrap().apply(&batch).unwrap().rows;
        assert_eq!(rows.schema(), united.to_arrow());
        assert_eq!(rows.column(0).as_string::<i32>().value(1), "b");
        assert_eq!(rows.column(1).null_count(), 2);
        assert_eq!(rows.column(2).as_primitive::<Int64Type>().values(), &[7, -1]);
    }
}
