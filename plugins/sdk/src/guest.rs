//! The component's side of the boundary: exports, imports, the panic hook.
//!
//! Moves columns between the generated types and [`crate::column`]; copies none. One component holds one plugin and one
//! instance of it, so the instance lives in a thread-local (a component has one thread).

use std::cell::RefCell;

use crate::aggregation::{Accumulator, Plugin, Window};
use crate::column::{self, Bytes, BytesRef, ColumnRef, DataRef, List};
use crate::host::Level;
use crate::value::Timestamptz;

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/types", "../../wit/aggregation"],
        world: "millrace:aggregation/aggregation-plugin",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "millrace_plugin::guest::bindings",
        generate_all,
    });
}

use bindings::exports::millrace::aggregation::aggregation as wit;
use bindings::millrace::types::{host, types};

pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

pub fn count(name: &str, by: u64) {
    host::count(name, by);
}

thread_local! {
    static INSTANCE: RefCell<Option<Box<dyn Accumulator>>> = const { RefCell::new(None) };
}

/// A trap says only "unreachable": the message and the place have to be told before.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string())));
}

fn with<R>(f: impl FnOnce(&mut dyn Accumulator) -> Result<R, column::Error>) -> Result<R, types::Error> {
    INSTANCE.with_borrow_mut(|instance| match instance {
        Some(accumulator) => f(accumulator.as_mut()).map_err(error),
        None => Err(types::Error::Internal("called before `open`".into())),
    })
}

/// Exports a type that implements [`Plugin`]; `#[aggregation]` writes this.
#[macro_export]
macro_rules! export_aggregation {
    ($plugin:ty) => {
        const _: () = {
            type Component = $crate::guest::Component<$plugin>;
    $crate::guest::bindings::export_world!(Component with_types_in $crate::guest::bindings);
        };
    };
}

/// The exported functions, for the plugin `P`.
pub struct Component<P>(std::marker::PhantomData<P>);

impl<P: Plugin> wit::Guest for Component<P> {
    fn info() -> types::PluginInfo {
        let info = P::Accumulator::info();
        types::PluginInfo {
            name: info.name,
            version: info.version,
            config_schema: info.config_schema,
            hints: Vec::new(),
        }
    }

    fn open(config: String, offered: Vec<types::Field>) -> Result<wit::Signature, types::Error> {
        report_panics();
        let offered: Vec<column::Field> = offered.into_iter().map(field_in).collect();
        let accumulator = P::Accumulator::open(&config, &offered).map_err(error)?;
        let signature = accumulator.signature();
        INSTANCE.set(Some(Box::new(accumulator)));
        let wanted = |w: column::Wanted| types::Wanted {
            encoding: match w.field.data_type {
                column::DataType::Utf8 => types::Encoding::Either,
                _ => types::Encoding::Plain,
            },
            field: field_out(w.field),
            optional: w.optional,
        };
        Ok(wit::Signature {
            input: signature.input.into_iter().map(wanted).collect(),
            state: signature.state.into_iter().map(field_out).collect(),
            output: signature.output.into_iter().map(field_out).collect(),
            ordered: signature.ordered,
        })
    }

    fn update(
        rows: Vec<types::Column>,
        groups: Vec<u32>,
        total_groups: u32,
    ) -> Result<Vec<types::Rejected>, types::Error> {
        let rejected = with(|a| a.update(&borrow(&rows), &groups, total_groups))?;
        Ok(rejected.into_iter().map(|r| types::Rejected { row: r.row, reason: r.reason }).collect())
    }

    fn combine(sources: Vec<u32>, targets: Vec<u32>) -> Result<(), types::Error> {
        with(|a| a.combine(&sources, &targets))
    }

    fn merge(state: Vec<types::Column>, groups: Vec<u32>, total_groups: u32) -> Result<(), types::Error> {
        with(|a| a.merge(&borrow(&state), &groups, total_groups))
    }

    fn state(groups: Vec<u32>, cursor: u64, max_bytes: u64) -> Result<wit::StateChunk, types::Error> {
        let chunk = with(|a| a.state(&groups, cursor, max_bytes))?;
        Ok(wit::StateChunk {
            columns: chunk.columns.into_iter().map(column_out).collect(),
            groups: chunk.groups,
            next: chunk.next,
        })
    }

    fn evaluate(groups: Vec<u32>, windows: Vec<wit::Window>, is_final: bool) -> Result<wit::OutputRows, types::Error> {
        let windows: Vec<Window> = windows
            .into_iter()
            .map(|w| Window { start: Timestamptz(w.start), end: Timestamptz(w.end), is_final })
            .collect();
        let rows = with(|a| a.evaluate(&groups, &windows))?;
        Ok(wit::OutputRows { columns: rows.columns.into_iter().map(column_out).collect(), groups: rows.groups })
    }

    fn reset(groups: Vec<u32>) -> Result<(), types::Error> {
        with(|a| a.reset(&groups))
    }

    fn size() -> u64 {
        with(|a| Ok(a.size())).unwrap_or_default()
    }

    fn migrate(origin: wit::Origin, state: Vec<types::Column>) -> Result<Option<Vec<types::Column>>, types::Error> {
        let origin = crate::aggregation::Origin {
            name: origin.name,
            version: origin.version,
            config: origin.config,
            state: origin.state.into_iter().map(field_in).collect(),
        };
        Ok(with(|a| Ok(a.takes(&origin)))?.then_some(state))
    }
}

fn error(e: column::Error) -> types::Error {
    match e {
        column::Error::Config(m) => types::Error::Config(m),
        column::Error::Input(m) => types::Error::Input(m),
        column::Error::Internal(m) => types::Error::Internal(m),
    }
}

fn borrow(columns: &[types::Column]) -> Vec<ColumnRef<'_>> {
    columns.iter().map(column_in).collect()
}

fn bytes_in(bytes: &types::VarBytes) -> BytesRef<'_> {
    BytesRef { offsets: &bytes.offsets, data: &bytes.data }
}

fn bytes_out(bytes: Bytes) -> types::VarBytes {
    types::VarBytes { offsets: bytes.offsets, data: bytes.data }
}

fn column_in(column: &types::Column) -> ColumnRef<'_> {
    use types::ColumnData as C;
    let data = match &column.data {
        C::Missing => DataRef::Missing,
        C::Boolean(v) => DataRef::Boolean(v),
        C::Int32(v) => DataRef::Int32(v),
        C::Int64(v) => DataRef::Int64(v),
        C::Float32(v) => DataRef::Float32(v),
        C::Float64(v) => DataRef::Float64(v),
        C::Decimal(v) => DataRef::Decimal(v),
        C::Date(v) => DataRef::Date(v),
        C::Timestamp(v) => DataRef::Timestamp(v),
        C::Timestamptz(v) => DataRef::Timestamptz(v),
        C::Utf8(v) => DataRef::Utf8(bytes_in(v)),
        C::Utf8Dictionary(d) => DataRef::Dictionary { keys: &d.keys, values: bytes_in(&d.values) },
        C::Binary(v) => DataRef::Binary(bytes_in(v)),
        C::ListInt64(l) => DataRef::ListInt64 { offsets: &l.offsets, values: &l.values },
        C::ListFloat64(l) => DataRef::ListFloat64 { offsets: &l.offsets, values: &l.values },
        C::ListUtf8(l) => DataRef::ListUtf8 { offsets: &l.offsets, values: bytes_in(&l.values) },
    };
    ColumnRef { data, validity: column.validity.as_deref() }
}

fn column_out(column: column::Column) -> types::Column {
    use column::ColumnData as D;
    use types::ColumnData as C;
    let data = match column.data {
        D::Boolean(v) => C::Boolean(v),
        D::Int32(v) => C::Int32(v),
        D::Int64(v) => C::Int64(v),
        D::Float32(v) => C::Float32(v),
        D::Float64(v) => C::Float64(v),
        D::Decimal(v) => C::Decimal(v),
        D::Date(v) => C::Date(v),
        D::Timestamp(v) => C::Timestamp(v),
        D::Timestamptz(v) => C::Timestamptz(v),
        D::Utf8(v) => C::Utf8(bytes_out(v)),
        D::Binary(v) => C::Binary(bytes_out(v)),
        D::ListInt64(List { offsets, values }) => C::ListInt64(types::ListInt64Data { offsets, values }),
        D::ListFloat64(List { offsets, values }) => C::ListFloat64(types::ListFloat64Data { offsets, values }),
        D::ListUtf8(List { offsets, values }) => {
            C::ListUtf8(types::ListUtf8Data { offsets, values: bytes_out(values) })
        }
    };
    types::Column { data, validity: column.validity }
}

fn field_in(field: types::Field) -> column::Field {
    use column::DataType as D;
    use types::DataType as T;
    let data_type = match field.data_type {
        T::Boolean => D::Boolean,
        T::Int32 => D::Int32,
        T::Int64 => D::Int64,
        T::Float32 => D::Float32,
        T::Float64 => D::Float64,
        T::Decimal(d) => D::Decimal { precision: d.precision, scale: d.scale },
        T::Date => D::Date,
        T::Timestamp => D::Timestamp,
        T::Timestamptz => D::Timestamptz,
        T::Utf8 => D::Utf8,
        T::Binary => D::Binary,
        T::ListInt64 => D::ListInt64,
        T::ListFloat64 => D::ListFloat64,
        T::ListUtf8 => D::ListUtf8,
    };
    column::Field { name: field.name, data_type, nullable: field.nullable }
}

fn field_out(field: column::Field) -> types::Field {
    use column::DataType as D;
    use types::DataType as T;
    let data_type = match field.data_type {
        D::Boolean => T::Boolean,
        D::Int32 => T::Int32,
        D::Int64 => T::Int64,
        D::Float32 => T::Float32,
        D::Float64 => T::Float64,
        D::Decimal { precision, scale } => T::Decimal(types::DecimalType { precision, scale }),
        D::Date => T::Date,
        D::Timestamp => T::Timestamp,
        D::Timestamptz => T::Timestamptz,
        D::Utf8 => T::Utf8,
        D::Binary => T::Binary,
        D::ListInt64 => T::ListInt64,
        D::ListFloat64 => T::ListFloat64,
        D::ListUtf8 => T::ListUtf8,
    };
    types::Field { name: field.name, data_type, nullable: field.nullable }
}
