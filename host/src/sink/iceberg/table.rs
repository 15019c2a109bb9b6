//! The table: made from the input's columns, or checked against them, column by column.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{Field as ArrowField, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::{FileIO, OutputFile};
use iceberg::spec::{
    NestedField, PartitionSpecRef, PrimitiveType, Schema as IcebergSchema, SchemaRef, Transform, Type,
    UnboundPartitionSpec,
};
use iceberg::table::Table;
use iceberg::transaction::{AddColumn, ApplyTransactionAction, Transaction};
use iceberg::writer::file_writer::location_generator::{DefaultLocationGenerator, LocationGenerator};
use iceberg::{Catalog, NamespaceIdent, TableCreation, TableIdent};
use millrace_core::schema::{DataType, Field, Schema};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, PARQUET_FIELD_ID_META_KEY};
use serde_json::Value;

use super::super::{Result, SinkError};
use super::data::Closed;
use super::{classify, encode};
use crate::catalog::fs::{DurableFs, create_folder, local_path};
use crate::spec::model::{Evolve, IcebergSinkSpec, PartitionField, PartitionTransform};

/// All that a writer needs to know of the table; fixed while the run lasts.
#[derive(Debug)]
pub struct Layout {
    pub table: String,
    pub schema: SchemaRef,
    pub spec: PartitionSpecRef,
    pub partition_type: iceberg::spec::StructType,
    /// the table's columns in Arrow, with their field ids
    pub arrow: ArrowSchemaRef,
    /// one per column of the table: the input's column, if it has one
    inputs: Vec<Option<usize>>,
    pub locations: DefaultLocationGenerator,
    pub file_io: FileIO,
    /// writes local data files, which become durable together
    pub(super) deferred: Option<Arc<DurableFs>>,
    pub options: encode::WriteOptions,
    /// `options` for files of these columns
    pub parquet: ArrowWriterOptions,
}

impl Layout {
    /// A data file or run to be written. What is closed must pass [`Self::durable`] before anything names it.
    pub fn output(&self, path: &str) -> Result<OutputFile> {
        match &self.deferred {
            Some(storage) => Ok(OutputFile::new(storage.clone(), path.to_owned())),
            None => self.file_io.new_output(path).map_err(|e| classify(&format!("creating {path}"), &e)),
        }
    }

    /// Makes files durable: what it returns may be listed in a checkpoint.
    pub fn durable(&self, files: Vec<Closed>) -> Result<Vec<Value>> {
        if !files.is_empty() {
            self.sync()?;
        }
        Ok(files.into_iter().map(|file| file.0).collect())
    }

    /// Makes all files durable that have been closed so far.
    pub fn sync(&self) -> Result<()> {
        let failed = |e| SinkError::Fatal(format!("table {}: making its files durable: {e}", self.table));
        self.deferred.as_ref().map_or(Ok(()), |storage| storage.sync()).map_err(failed)
    }

    /// The input's column that becomes a column of the table.
    pub fn input_of(&self, column: usize) -> Option<usize> {
        self.inputs.get(column).copied().flatten()
    }

    /// Removes files that nothing needs any more. What cannot be removed is logged: it costs space, not answers.
    pub async fn remove(&self, paths: impl Iterator<Item = &str>) {
        for path in paths {
            let removed = match self.output(path) {
                Ok(file) => file.delete().await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            if let Err(error) = removed {
                tracing::warn!("{path} is not needed any more but cannot be removed: {error}");
            }
        }
    }

    /// Rows read back from a file that was written for this table, perhaps before it got its newest columns.
    pub fn conform(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        if *rows.schema_ref() == self.arrow {
            return Ok(rows.clone());
        }
        let found = rows.schema();
        let id = |field: &ArrowField| field.metadata().get(PARQUET_FIELD_ID_META_KEY).cloned();
        let columns = self.arrow.fields().iter().map(|field| {
            let column = found.fields().iter().position(|f| id(f) == id(field)).and_then(|i| rows.columns().get(i));
            self.fit(field, column, rows.num_rows())
        });
        self.batch(columns.collect::<Result<_>>()?)
    }

    fn fit(&self, field: &ArrowField, column: Option<&ArrayRef>, rows: usize) -> Result<ArrayRef> {
        match column {
            None => Ok(new_null_array(field.data_type(), rows)),
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => arrow_cast::cast(column, field.data_type())
                .map_err(|e| SinkError::Fatal(format!("table {}: column `{}`: {e}", self.table, field.name()))),
        }
    }

    fn batch(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        RecordBatch::try_new(self.arrow.clone(), columns)
            .map_err(|e| SinkError::Fatal(format!("table {}: rows do not fit the table: {e}", self.table)))
    }

    /// The input's rows as the table's columns: widened, and null where the input has none.
    pub fn project(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self
            .arrow
            .fields()
            .iter()
            .zip(&self.inputs)
            .map(|(field, input)| {
                let column = input.map(|index| {
                    rows.columns().get(index).ok_or_else(|| {
                        SinkError::Fatal(format!("table {}: a batch lacks column `{}`", self.table, field.name()))
                    })
                });
                self.fit(field, column.transpose()?, rows.num_rows())
            })
            .collect::<Result<_>>()?;
        self.batch(columns)
    }
}

pub async fn open(catalog: &dyn Catalog, spec: &IcebergSinkSpec, input: &Schema) -> Result<(Table, Layout)> {
    let name = format!("{}.{}", spec.namespace, spec.table);
    let failed = |what: &str, e: &iceberg::Error| classify(&format!("table {name}: cannot {what}"), e);
    let namespace = NamespaceIdent::new(spec.namespace.clone());
    let ident = TableIdent::new(namespace.clone(), spec.table.clone());
    if !catalog.namespace_exists(&namespace).await.map_err(|e| failed("look for the namespace", &e))? {
        match catalog.create_namespace(&namespace, HashMap::new()).await {
            Ok(_) => {}
            // another sink of this pipeline may have made it in the meantime
            Err(_) if catalog.namespace_exists(&namespace).await.unwrap_or(false) => {}
            Err(e) => return Err(failed("create the namespace", &e)),
        }
    }
    if !catalog.table_exists(&ident).await.map_err(|e| failed("look for the table", &e))? {
        let creation = creation(spec, input)?;
        match catalog.create_table(&namespace, creation).await {
            Ok(_) => {}
            Err(_) if catalog.table_exists(&ident).await.unwrap_or(false) => {}
            Err(e) => return Err(failed("create the table", &e)),
        }
    }
    let mut table = catalog.load_table(&ident).await.map_err(|e| failed("load the table", &e))?;
    let added = check(&table, &name, spec, input)?;
    if !added.is_empty() {
        let tx = Transaction::new(&table);
        let mut action = tx.update_schema();
        for field in &added {
            action = action.add_column(AddColumn::optional(&field.name, Type::Primitive(primitive(field)?)));
        }
        let tx = action.apply(tx).map_err(|e| failed("add columns", &e))?;
        tx.commit(catalog).await.map_err(|e| failed("add columns", &e))?;
        table = catalog.load_table(&ident).await.map_err(|e| failed("load the table", &e))?;
        let rest = check(&table, &name, spec, input)?;
        if !rest.is_empty() {
            return Err(SinkError::Transient(format!("table {name}: the added columns are not there yet")));
        }
    }
    let layout = layout(&table, &name, input)?;
    Ok((table, layout))
}

/// A sink's table, and the columns that opening it would add; none: it would be created. Changes nothing. Refused as [`open`]
/// would.
pub async fn look(
    catalog: &dyn Catalog,
    spec: &IcebergSinkSpec,
    input: &Schema,
) -> Result<Option<(Table, Vec<Field>)>> {
    let name = format!("{}.{}", spec.namespace, spec.table);
    let failed = |what: &str, e: &iceberg::Error| classify(&format!("table {name}: cannot {what}"), e);
    let ident = TableIdent::new(NamespaceIdent::new(spec.namespace.clone()), spec.table.clone());
    let namespace = catalog.namespace_exists(ident.namespace()).await;
    let is_there = namespace.map_err(|e| failed("look for the namespace", &e))?
        && catalog.table_exists(&ident).await.map_err(|e| failed("look for the table", &e))?;
    if !is_there {
        return creation(spec, input).map(|_| None);
    }
    let table = catalog.load_table(&ident).await.map_err(|e| failed("load the table", &e))?;
    let added = check(&table, &name, spec, input)?;
    Ok(Some((table, added)))
}

fn layout(table: &Table, name: &str, input: &Schema) -> Result<Layout> {
    let invalid = |e: iceberg::Error| SinkError::Fatal(format!("table {name}: {e}"));
    let metadata = table.metadata();
    let schema = metadata.current_schema().clone();
    let as_read = schema_to_arrow_schema(&schema).map_err(invalid)?;
    let mut fields = Vec::new();
    let mut inputs = Vec::new();
    for (field, arrow) in schema.as_struct().fields().iter().zip(as_read.fields()) {
        // what the crate's writer takes; `project` casts (binary is LargeBinary there, the same bytes in Parquet)
        let arrow_type = arrow.data_type().clone();
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), field.id.to_string())]);
        fields.push(ArrowField::new(&field.name, arrow_type, !field.required).with_metadata(id));
        inputs.push(input.index_of(&field.name));
    }
    let arrow = Arc::new(ArrowSchema::new(fields));
    let options = encode::WriteOptions::from_properties(metadata.properties(), &schema)
        .map_err(|e| SinkError::Fatal(format!("table {name}: {e}")))?;
    // Converted once, not per file. The Arrow schema in the footer would tell readers nothing that the columns do not.
    let columns = ArrowSchemaConverter::new()
        .convert(&arrow)
        .map_err(|e| SinkError::Fatal(format!("table {name}: its columns as Parquet: {e}")))?;
    let parquet = ArrowWriterOptions::new()
        .with_properties(options.parquet.clone())
        .with_parquet_schema(columns)
        .with_skip_arrow_metadata(true);
    let locations = DefaultLocationGenerator::new(metadata).map_err(invalid)?;
    Ok(Layout {
        table: name.to_owned(),
        spec: metadata.default_partition_spec().clone(),
        partition_type: metadata.default_partition_type().clone(),
        deferred: deferred(&locations, metadata.location())
            .map_err(|e| SinkError::Fatal(format!("table {name}: {e}")))?,
        locations,
        arrow,
        inputs,
        file_io: table.file_io().clone(),
        options,
        parquet,
        schema,
    })
}

/// Where data files are local, the storage that writes them.
fn deferred(locations: &DefaultLocationGenerator, table: &str) -> std::result::Result<Option<Arc<DurableFs>>, String> {
    let Some(data) = local_path(locations.generate_location(None, "").trim_end_matches('/')) else { return Ok(None) };
    create_folder(&data).map_err(|e| format!("cannot create {}: {e}", data.display()))?;
    let root = local_path(table).filter(|table| data.starts_with(table)).unwrap_or(data);
    Ok(Some(Arc::new(DurableFs::deferred(root))))
}

fn primitive(field: &Field) -> Result<PrimitiveType> {
    Ok(match field.data_type {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int => PrimitiveType::Int,
        DataType::Long => PrimitiveType::Long,
        DataType::Float => PrimitiveType::Float,
        DataType::Double => PrimitiveType::Double,
        DataType::Decimal { precision, scale } => {
            PrimitiveType::Decimal { precision: u32::from(precision), scale: u32::from(scale) }
        }
        DataType::Date => PrimitiveType::Date,
        DataType::Timestamp => PrimitiveType::Timestamp,
        DataType::Timestamptz => PrimitiveType::Timestamptz,
        DataType::String => PrimitiveType::String,
        DataType::Binary => PrimitiveType::Binary,
        DataType::ListLong | DataType::ListDouble | DataType::ListString => {
            return Err(SinkError::Fatal(format!(
                "column {field} cannot be written to an Iceberg table: no lists yet"
            )));
        }
    })
}

fn creation(spec: &IcebergSinkSpec, input: &Schema) -> Result<TableCreation> {
    let invalid = |e: iceberg::Error| SinkError::Fatal(format!("table {}.{}: {e}", spec.namespace, spec.table));
    let mut fields = Vec::new();
    for (field, id) in input.fields.iter().zip(1..) {
        fields.push(Arc::new(NestedField::new(id, &field.name, Type::Primitive(primitive(field)?), !field.nullable)));
    }
    let schema = IcebergSchema::builder().with_fields(fields).build().map_err(invalid)?;
    let mut partition = UnboundPartitionSpec::builder().with_spec_id(0);
    for field in &spec.partition_by {
        let source = schema.field_by_name(&field.column).ok_or_else(|| {
            SinkError::Fatal(format!(
                "sink table {}: partition_by names `{}`, which is no column",
                spec.table, field.column
            ))
        })?;
        partition = partition
            .add_partition_field(source.id, partition_name(field), transform(field.transform))
            .map_err(invalid)?;
    }
    Ok(TableCreation::builder()
        .name(spec.table.clone())
        .schema(schema)
        .partition_spec(partition.build())
        .properties(spec.properties.clone())
        .build())
}

fn transform(transform: PartitionTransform) -> Transform {
    match transform {
        PartitionTransform::Identity => Transform::Identity,
        PartitionTransform::Bucket(n) => Transform::Bucket(n),
        PartitionTransform::Truncate(n) => Transform::Truncate(n),
        PartitionTransform::Year => Transform::Year,
        PartitionTransform::Month => Transform::Month,
        PartitionTransform::Day => Transform::Day,
        PartitionTransform::Hour => Transform::Hour,
    }
}

/// The partition field's name as Java and PyIceberg give it.
fn partition_name(field: &PartitionField) -> String {
    let suffix = match field.transform {
        PartitionTransform::Identity => return field.column.clone(),
        PartitionTransform::Bucket(_) => "bucket",
        PartitionTransform::Truncate(_) => "trunc",
        PartitionTransform::Year => "year",
        PartitionTransform::Month => "month",
        PartitionTransform::Day => "day",
        PartitionTransform::Hour => "hour",
    };
    format!("{}_{suffix}", field.column)
}

/// Names every difference at once. Returns the columns that are to be added.
fn check(table: &Table, name: &str, spec: &IcebergSinkSpec, input: &Schema) -> Result<Vec<Field>> {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    let mut wrong = Vec::new();
    let mut added = Vec::new();
    for field in &input.fields {
        let wanted = primitive(field)?;
        let Some(there) = schema.field_by_name(&field.name) else {
            match spec.evolve {
                Evolve::AddColumns => added.push(field.clone()),
                Evolve::Fail => wrong.push(format!(
                    "the table lacks column `{}` ({}); `evolve = \"add-columns\"` would add it",
                    field.name, field.data_type
                )),
            }
            continue;
        };
        let fits = match there.field_type.as_primitive_type() {
            Some(found) if *found == wanted => true,
            Some(PrimitiveType::Long) => wanted == PrimitiveType::Int,
            Some(PrimitiveType::Double) => wanted == PrimitiveType::Float,
            _ => false,
        };
        if !fits {
            wrong.push(format!(
                "column `{}` is {} in the table and {} in the input",
                field.name, there.field_type, field.data_type
            ));
        }
        if there.required && field.nullable {
            wrong.push(format!("column `{}` is required in the table and may be null in the input", field.name));
        }
    }
    for there in schema.as_struct().fields() {
        if there.required && input.field(&there.name).is_none() {
            wrong.push(format!("the table requires column `{}`, which the input lacks", there.name));
        }
    }
    let found: Vec<String> = metadata
        .default_partition_spec()
        .fields()
        .iter()
        .filter(|f| f.transform != Transform::Void)
        .map(|f| format!("{}({})", f.transform, schema.name_by_field_id(f.source_id).unwrap_or("?")))
        .collect();
    let wanted: Vec<String> =
        spec.partition_by.iter().map(|f| format!("{}({})", transform(f.transform), f.column)).collect();
    if found != wanted {
        wrong.push(format!(
            "the table is partitioned by [{}], the sink says [{}]",
            found.join(", "),
            wanted.join(", ")
        ));
    }
    if wrong.is_empty() {
        return Ok(added);
    }
    Err(SinkError::Fatal(format!("table {name} does not fit the sink:\n  - {}", wrong.join("\n  - "))))
}
