//! Takes the same columns as `counts_by_row` and looks at none of them: what is left is the boundary.

use millrace_plugin::aggregation::{Accumulator, OutputRows, Plugin, Signature, StateChunk, Window};
use millrace_plugin::column::{ColumnRef, DataType, Error, Field, Wanted};
use millrace_plugin::plugin::{Info, Rejected};

pub struct Nothing;

impl Plugin for Nothing {
    type Accumulator = Self;
}

millrace_plugin::export_aggregation!(Nothing);

impl Accumulator for Nothing {
    fn info() -> Info {
        Info { name: "nothing".into(), version: "0.1.0".into(), config_schema: "{}".into() }
    }

    fn open(_: &str, _: &[Field]) -> Result<Self, Error> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        let wanted =
            |name, data_type, nullable| Wanted { field: Field::new(name, data_type, nullable), optional: false };
        Signature {
            input: vec![wanted("event_type", DataType::Utf8, false), wanted("revenue", DataType::Float64, true)],
            state: Vec::new(),
            output: Vec::new(),
            ordered: false,
        }
    }

    fn update(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], _: u32) -> Result<Vec<Rejected>, Error> {
        std::hint::black_box((columns, groups));
        Ok(Vec::new())
    }

    fn combine(&mut self, _: &[u32], _: &[u32]) -> Result<(), Error> {
        Ok(())
    }

    fn merge(&mut self, _: &[ColumnRef<'_>], _: &[u32], _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn state(&mut self, groups: &[u32], _: u64, _: u64) -> Result<StateChunk, Error> {
        Ok(StateChunk { columns: Vec::new(), groups: groups.to_vec(), next: None })
    }

    fn evaluate(&mut self, _: &[u32], _: &[Window]) -> Result<OutputRows, Error> {
        Ok(OutputRows { columns: Vec::new(), groups: None })
    }

    fn reset(&mut self, _: &[u32]) -> Result<(), Error> {
        Ok(())
    }

    fn size(&mut self) -> u64 {
        0
    }
}
