//! Plugins of the Rust SDK run natively: the same logic without the sandbox.
//!
//! Owns the borrowing of Arrow arrays as SDK columns (no value is copied on the way in, except a validity bitmap that
//! does not begin at a byte) and the moving of SDK columns into Arrow arrays. Serves tests and benchmarks, which run on
//! this and on [`super::wasm`] alike; a pipeline never uses it.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, StringArray, types};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field as ArrowField, TimeUnit};
use millrace_core::schema::{DataType, Field, Schema};
use millrace_plugin::aggregation::{Accumulator, Origin, Plugin, Signature as SdkSignature, Window};
use millrace_plugin::column::{
    Bytes, BytesRef, Column, ColumnData, ColumnRef, DataRef, DataType as SdkType, Error, Field as SdkField, List,
};
use millrace_plugin::prelude::Timestamptz;

use super::{
    Aggregator, AggregatorFactory, Info, OutputRows, PluginError, Rejected, Result, Signature, StateChunk, StateOrigin,
    Wanted, WindowUs,
};

/// Makes native instances of the plugin `P`.
pub struct NativeFactory<P> {
    info: Info,
    digest: String,
    plugin: PhantomData<fn() -> P>,
}

impl<P: Plugin> NativeFactory<P> {
    /// `name` tells it apart from components, in place of a digest.
    pub fn new(name: &str) -> Self {
        let info = P::Accumulator::info();
        Self {
            info: Info { name: info.name, version: info.version, config_schema: info.config_schema },
            digest: format!("native:{name}"),
            plugin: PhantomData,
        }
    }
}

impl<P: Plugin> AggregatorFactory for NativeFactory<P> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Aggregator>> {
        let plugin = self.info.name.clone();
        let offered: Vec<SdkField> = offered.fields.iter().map(field_in).collect();
        let accumulator = P::Accumulator::open(config, &offered).map_err(|e| PluginError::Refused {
            plugin: plugin.clone(),
            what: if matches!(e, Error::Config(_)) { "its configuration" } else { "its input" },
            message: e.to_string(),
        })?;
        let signature = signature_out(accumulator.signature());
        Ok(Box::new(Native { plugin, accumulator, signature }))
    }
}

struct Native<A> {
    plugin: String,
    accumulator: A,
    signature: Signature,
}

impl<A> Native<A> {
    fn broke(&self, call: &'static str, message: impl ToString) -> PluginError {
        PluginError::Contract { plugin: self.plugin.clone(), call, message: message.to_string() }
    }
}

impl<A: Accumulator> Aggregator for Native<A> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn update(&mut self, columns: &[Option<ArrayRef>], groups: &[u32], total_groups: u32) -> Result<Vec<Rejected>> {
        let bits = columns.iter().map(|c| c.as_ref().and_then(|c| Bits::of(c.nulls()))).collect::<Vec<_>>();
        let columns: Option<Vec<ColumnRef<'_>>> = columns
            .iter()
            .zip(&bits)
            .map(|(c, bits)| c.as_ref().map_or(Some(ColumnRef::MISSING), |c| column_in(c, bits)))
            .collect();
        let columns = columns.ok_or_else(|| self.broke("update", "a column is of a type that does not cross"))?;
        let rejected = self.accumulator.update(&columns, groups, total_groups);
        let rejected = rejected.map_err(|e| self.broke("update", e))?;
        Ok(rejected.into_iter().map(|r| Rejected { row: r.row, reason: r.reason }).collect())
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<()> {
        self.accumulator.combine(sources, targets).map_err(|e| self.broke("combine", e))
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32], total_groups: u32) -> Result<()> {
        let bits = state.iter().map(|c| Bits::of(c.nulls())).collect::<Vec<_>>();
        let columns: Option<Vec<ColumnRef<'_>>> = state.iter().zip(&bits).map(|(c, b)| column_in(c, b)).collect();
        let columns = columns.ok_or_else(|| self.broke("merge", "a column is of a type that does not cross"))?;
        self.accumulator.merge(&columns, groups, total_groups).map_err(|e| self.broke("merge", e))
    }

    fn state(&mut self, groups: &[u32], cursor: u64, max_bytes: u64) -> Result<StateChunk> {
        let chunk = self.accumulator.state(groups, cursor, max_bytes).map_err(|e| self.broke("state", e))?;
        let columns = columns_out(chunk.columns, &self.signature.state).map_err(|e| self.broke("state", e))?;
        Ok(StateChunk { columns, groups: chunk.groups, next: chunk.next })
    }

    fn evaluate(&mut self, groups: &[u32], windows: &[WindowUs], is_final: bool) -> Result<OutputRows> {
        let windows: Vec<Window> =
            windows.iter().map(|w| Window { start: Timestamptz(w.start), end: Timestamptz(w.end), is_final }).collect();
        let rows = self.accumulator.evaluate(groups, &windows).map_err(|e| self.broke("evaluate", e))?;
        let columns = columns_out(rows.columns, &self.signature.output).map_err(|e| self.broke("evaluate", e))?;
        Ok(OutputRows { columns, groups: rows.groups })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<()> {
        self.accumulator.reset(groups).map_err(|e| self.broke("reset", e))
    }

    fn size(&mut self) -> Result<u64> {
        Ok(self.accumulator.size())
    }

    fn migrate(&mut self, origin: &StateOrigin, state: &[ArrayRef]) -> Result<Option<Vec<ArrayRef>>> {
        let origin = Origin {
            name: origin.name.clone(),
            version: origin.version.clone(),
            config: origin.config.clone(),
            state: origin.state.fields.iter().map(field_in).collect(),
        };
        Ok(self.accumulator.takes(&origin).then(|| state.to_vec()))
    }
}

/// A validity bitmap that begins at a byte, with zeros past its end.
struct Bits(Buffer);

impl Bits {
    fn of(nulls: Option<&NullBuffer>) -> Option<Self> {
        nulls.map(|n| Self(n.inner().sliced()))
    }
}

/// Booleans are bits, which a slice may begin within a byte: those have no borrowed form.
fn column_in<'a>(array: &'a ArrayRef, bits: &'a Option<Bits>) -> Option<ColumnRef<'a>> {
    let bytes = |offsets: &'a OffsetBuffer<i32>, data: &'a Buffer| BytesRef { offsets: unsigned(offsets), data };
    let data = match array.data_type() {
        ArrowType::Boolean => {
            let values = array.as_boolean().values();
            let start = values.offset();
            // decoded batches are never sliced within a byte
            if !start.is_multiple_of(8) {
                return None;
            }
            DataRef::Boolean(values.inner().get(start / 8..start / 8 + values.len().div_ceil(8))?)
        }
        ArrowType::Int32 => DataRef::Int32(array.as_primitive::<types::Int32Type>().values()),
        ArrowType::Int64 => DataRef::Int64(array.as_primitive::<types::Int64Type>().values()),
        ArrowType::Float32 => DataRef::Float32(array.as_primitive::<types::Float32Type>().values()),
        ArrowType::Float64 => DataRef::Float64(array.as_primitive::<types::Float64Type>().values()),
        ArrowType::Decimal128(..) => {
            DataRef::Decimal(array.as_primitive::<Decimal128Type>().values().inner().typed_data::<u64>())
        }
        ArrowType::Date32 => DataRef::Date(array.as_primitive::<Date32Type>().values()),
        ArrowType::Timestamp(TimeUnit::Microsecond, zone) => {
            let values = array.as_primitive::<TimestampMicrosecondType>().values();
            if zone.is_some() { DataRef::Timestamptz(values) } else { DataRef::Timestamp(values) }
        }
        ArrowType::Utf8 => DataRef::Utf8(bytes(array.as_string::<i32>().offsets(), array.as_string::<i32>().values())),
        ArrowType::Binary => {
            DataRef::Binary(bytes(array.as_binary::<i32>().offsets(), array.as_binary::<i32>().values()))
        }
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let (offsets, items) = (unsigned(list.offsets()), list.values());
            match items.data_type() {
                ArrowType::Int64 => {
                    DataRef::ListInt64 { offsets, values: items.as_primitive::<types::Int64Type>().values() }
                }
                ArrowType::Float64 => {
                    DataRef::ListFloat64 { offsets, values: items.as_primitive::<types::Float64Type>().values() }
                }
                ArrowType::Utf8 => {
                    let items = items.as_string::<i32>();
                    DataRef::ListUtf8 { offsets, values: bytes(items.offsets(), items.values()) }
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(ColumnRef { data, validity: bits.as_ref().map(|b| b.0.as_slice()) })
}

/// Arrow's offsets are never negative: the same bits, unsigned.
fn unsigned(offsets: &OffsetBuffer<i32>) -> &[u32] {
    offsets.inner().inner().typed_data::<u32>()
}

fn columns_out(columns: Vec<Column>, schema: &Schema) -> std::result::Result<Vec<ArrayRef>, String> {
    if columns.len() != schema.fields.len() {
        return Err(format!("it gave {} columns, not {}", columns.len(), schema.fields.len()));
    }
    columns.into_iter().zip(&schema.fields).map(|(column, field)| column_out(column, field)).collect()
}

fn column_out(column: Column, field: &Field) -> std::result::Result<ArrayRef, String> {
    let arrow = field.data_type.to_arrow();
    let rows = column.rows;
    let nulls = column.validity.map(|bits| BooleanBuffer::new(bits.into(), 0, rows)).map(NullBuffer::new);
    let data = match column.data {
        ColumnData::Boolean(bits) => {
            return Ok(Arc::new(BooleanArray::new(BooleanBuffer::new(bits.into(), 0, rows), nulls)));
        }
        ColumnData::Int32(v) => return Ok(Arc::new(PrimitiveArray::<types::Int32Type>::new(v.into(), nulls))),
        ColumnData::Int64(v) => return Ok(Arc::new(PrimitiveArray::<types::Int64Type>::new(v.into(), nulls))),
        ColumnData::Float32(v) => return Ok(Arc::new(PrimitiveArray::<types::Float32Type>::new(v.into(), nulls))),
        ColumnData::Float64(v) => return Ok(Arc::new(PrimitiveArray::<types::Float64Type>::new(v.into(), nulls))),
        ColumnData::Date(v) => return Ok(Arc::new(PrimitiveArray::<Date32Type>::new(v.into(), nulls))),
        ColumnData::Timestamp(v) | ColumnData::Timestamptz(v) => {
            let array = PrimitiveArray::<TimestampMicrosecondType>::new(v.into(), nulls);
            return Ok(Arc::new(array.with_data_type(arrow)));
        }
        ColumnData::Decimal(words) => {
            let values: ScalarBuffer<i128> = words
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[low, high]| ((u128::from(*high) << 64) | u128::from(*low)).cast_signed())
                .collect();
            return Ok(Arc::new(PrimitiveArray::<Decimal128Type>::new(values, nulls).with_data_type(arrow)));
        }
        ColumnData::Utf8(bytes) | ColumnData::Binary(bytes) => return bytes_out(bytes, &arrow, nulls),
        ColumnData::ListInt64(List { offsets, values }) => {
            (offsets, Arc::new(PrimitiveArray::<types::Int64Type>::new(values.into(), None)) as ArrayRef)
        }
        ColumnData::ListFloat64(List { offsets, values }) => {
            (offsets, Arc::new(PrimitiveArray::<types::Float64Type>::new(values.into(), None)) as ArrayRef)
        }
        ColumnData::ListUtf8(List { offsets, values }) => (offsets, bytes_out(values, &ArrowType::Utf8, None)?),
    };
    let (offsets, items) = data;
    let item = Arc::new(ArrowField::new("item", items.data_type().clone(), false));
    let offsets = OffsetBuffer::new(ScalarBuffer::from(Buffer::from_vec(offsets)));
    let list = arrow_array::ListArray::try_new(item, offsets, items, nulls).map_err(|e| e.to_string())?;
    Ok(Arc::new(list))
}

/// Strings are checked to be UTF-8 here, as those of a component are.
fn bytes_out(bytes: Bytes, arrow: &ArrowType, nulls: Option<NullBuffer>) -> std::result::Result<ArrayRef, String> {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(Buffer::from_vec(bytes.offsets)));
    let data = Buffer::from_vec(bytes.data);
    let array = match arrow {
        ArrowType::Binary => BinaryArray::try_new(offsets, data, nulls).map(|a| Arc::new(a) as ArrayRef),
        _ => StringArray::try_new(offsets, data, nulls).map(|a| Arc::new(a) as ArrayRef),
    };
    array.map_err(|e| e.to_string())
}

fn field_in(field: &Field) -> SdkField {
    let data_type = match field.data_type {
        DataType::Boolean => SdkType::Boolean,
        DataType::Int => SdkType::Int32,
        DataType::Long => SdkType::Int64,
        DataType::Float => SdkType::Float32,
        DataType::Double => SdkType::Float64,
        DataType::Decimal { precision, scale } => SdkType::Decimal { precision, scale },
        DataType::Date => SdkType::Date,
        DataType::Timestamp => SdkType::Timestamp,
        DataType::Timestamptz => SdkType::Timestamptz,
        DataType::String => SdkType::Utf8,
        DataType::Binary => SdkType::Binary,
        DataType::ListLong => SdkType::ListInt64,
        DataType::ListDouble => SdkType::ListFloat64,
        DataType::ListString => SdkType::ListUtf8,
    };
    SdkField::new(field.name.clone(), data_type, field.nullable)
}

fn field_out(field: SdkField) -> Field {
    let data_type = match field.data_type {
        SdkType::Boolean => DataType::Boolean,
        SdkType::Int32 => DataType::Int,
        SdkType::Int64 => DataType::Long,
        SdkType::Float32 => DataType::Float,
        SdkType::Float64 => DataType::Double,
        SdkType::Decimal { precision, scale } => DataType::Decimal { precision, scale },
        SdkType::Date => DataType::Date,
        SdkType::Timestamp => DataType::Timestamp,
        SdkType::Timestamptz => DataType::Timestamptz,
        SdkType::Utf8 => DataType::String,
        SdkType::Binary => DataType::Binary,
        SdkType::ListInt64 => DataType::ListLong,
        SdkType::ListFloat64 => DataType::ListDouble,
        SdkType::ListUtf8 => DataType::ListString,
    };
    Field::new(field.name, data_type, field.nullable)
}

fn signature_out(signature: SdkSignature) -> Signature {
    let schema = |fields: Vec<SdkField>| Schema::new(fields.into_iter().map(field_out).collect());
    let wanted = |w: millrace_plugin::column::Wanted| Wanted {
        dictionary: w.field.data_type == SdkType::Utf8,
        optional: w.optional,
        field: field_out(w.field),
    };
    Signature {
        input: signature.input.into_iter().map(wanted).collect(),
        state: schema(signature.state),
        output: schema(signature.output),
        ordered: signature.ordered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, Int64Array};
    use campaign_metrics::Campaign;

    fn open() -> Box<dyn Aggregator> {
        let factory = NativeFactory::<Campaign>::new("campaign-metrics");
        let offered = Schema::new(vec![
            Field::new("user_id", DataType::String, false),
            Field::new("event_type", DataType::String, false),
            Field::new("revenue", DataType::Double, true),
        ]);
        factory.open("{}", &offered).unwrap()
    }

    fn event_columns() -> Vec<Option<ArrayRef>> {
        let kinds = StringArray::from(vec!["click", "impression", "view", "impression", "conversion"]);
        let users = StringArray::from(vec!["x", "ada", "ada", "bob", "ada"]);
        let revenue = Float64Array::from(vec![None, None, Some(100.0), None, Some(2.5)]);
        vec![Some(Arc::new(kinds)), Some(Arc::new(users)), Some(Arc::new(revenue))]
    }

    #[test]
    fn arrow_goes_in_and_comes_out_sliced_and_in_chunks() {
        let mut plugin = open();
        let names: Vec<String> = plugin.signature().state.fields.iter().map(Field::to_string).collect();
        assert_eq!(names[3..], ["revenue: double", "users.values: list<string>?", "users.sketch: binary?"]);
        // sliced: the offsets and the bitmap no longer begin at the beginning
        let columns: Vec<_> = event_columns().into_iter().map(|c| c.map(|c| c.slice(1, 4))).collect();
        let rejected = plugin.update(&columns, &[0, 0, 0, 0], 2).unwrap();
        assert_eq!(rejected, [Rejected { row: 1, reason: "unknown event_type \"view\"".into() }]);
        let mut fresh = open();
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let chunk = plugin.state(&[0, 1], at, 1).unwrap();
            for (column, field) in chunk.columns.iter().zip(&plugin.signature().state.fields) {
                assert_eq!(column.data_type(), &field.data_type.to_arrow());
            }
            fresh.merge(&chunk.columns, &chunk.groups, 2).unwrap();
            cursor = chunk.next;
        }
        let window = WindowUs { start: 0, end: 1 };
        for plugin in [&mut plugin, &mut fresh] {
            let out = plugin.evaluate(&[0, 1], &[window, window], true).unwrap();
            let longs = |i: usize| out.columns[i].as_primitive::<types::Int64Type>().clone();
            assert_eq!(longs(0), Int64Array::from(vec![2, 0]));
            assert_eq!(longs(4), Int64Array::from(vec![2, 0]));
            assert_eq!(out.columns[3].as_primitive::<types::Float64Type>(), &Float64Array::from(vec![2.5, 0.0]));
            assert_eq!(out.columns[5].as_primitive::<types::Float64Type>(), &Float64Array::from(vec![Some(0.0), None]));
        }
    }

    #[test]
    fn a_refusal_says_what_was_refused() {
        let factory = NativeFactory::<Campaign>::new("campaign-metrics");
        let error = factory.open(r#"{"unique_users": 1}"#, &Schema::default()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "plugin `campaign-metrics` refused its configuration: option `unique_users`: \"exact\" or \"hll\" is wanted, found 1"
        );
        let error = factory.open("", &Schema::default()).err().unwrap();
        assert!(error.to_string().contains("column `event_type` (string) is missing"), "{error}");
    }
}
