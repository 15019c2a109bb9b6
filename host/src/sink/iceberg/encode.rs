//! How data files are written: the table's `write.*` properties as Parquet writer settings.
//!
//! The iceberg crate does not honour them, so this is the place where they mean something. Statistics are never
//! truncated: bounds that were merged from truncated ones hide rows from every reader.

use std::collections::HashMap;

use iceberg::spec::Schema;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;

const TARGET_FILE_SIZE_BYTES_DEFAULT: usize = 512 << 20;
const ZSTD_LEVEL_DEFAULT: i32 = 1;

#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub parquet: WriterProperties,
    pub target_file_bytes: usize,
}

impl WriteOptions {
    /// Fails with the property's name and what it takes.
    pub fn from_properties(properties: &HashMap<String, String>, schema: &Schema) -> Result<Self, String> {
        let number = |key: &str| -> Result<Option<usize>, String> {
            let Some(text) = properties.get(key) else { return Ok(None) };
            match text.parse::<usize>() {
                Ok(n) if n > 0 => Ok(Some(n)),
                _ => Err(format!("property `{key}` is `{text}`: expected a positive number")),
            }
        };
        let mut builder = WriterProperties::builder()
            .set_compression(compression(properties)?)
            .set_statistics_truncate_length(None)
            .set_column_index_truncate_length(None)
            .set_created_by("millrace".to_owned());
        if let Some(bytes) = number("write.parquet.row-group-size-bytes")? {
            builder = builder.set_max_row_group_bytes(Some(bytes));
        }
        if let Some(rows) = number("write.parquet.row-group-limit")? {
            builder = builder.set_max_row_group_row_count(Some(rows));
        }
        if let Some(bytes) = number("write.parquet.page-size-bytes")? {
            builder = builder.set_data_page_size_limit(bytes);
        }
        if let Some(rows) = number("write.parquet.page-row-limit")? {
            builder = builder.set_data_page_row_count_limit(rows);
        }
        if let Some(bytes) = number("write.parquet.dict-size-bytes")? {
            builder = builder.set_dictionary_page_size_limit(bytes);
        }
        for field in schema.as_struct().fields() {
            let key = format!("write.parquet.bloom-filter-enabled.column.{}", field.name);
            match properties.get(&key).map(String::as_str) {
                Some("true") => {
                    builder = builder.set_column_bloom_filter_enabled(field.name.as_str().into(), true);
                }
                Some("false") | None => {}
                Some(other) => return Err(format!("property `{key}` is `{other}`: expected true or false")),
            }
        }
        let target_file_bytes = number("write.target-file-size-bytes")?.unwrap_or(TARGET_FILE_SIZE_BYTES_DEFAULT);
        Ok(Self { parquet: builder.build(), target_file_bytes })
    }
}

fn compression(properties: &HashMap<String, String>) -> Result<Compression, String> {
    const CODEC: &str = "write.parquet.compression-codec";
    const LEVEL: &str = "write.parquet.compression-level";
    let level = match properties.get(LEVEL) {
        None => None,
        Some(text) => {
            Some(text.parse::<i32>().map_err(|_| format!("property `{LEVEL}` is `{text}`: expected a number"))?)
        }
    };
    let bad_level = |e: parquet::errors::ParquetError| format!("property `{LEVEL}`: {e}");
    let unsigned =
        |default: u32| u32::try_from(level.unwrap_or(i32::try_from(default).unwrap_or(1))).unwrap_or(u32::MAX);
    match properties.get(CODEC).map(|c| c.to_ascii_lowercase()).as_deref() {
        None | Some("zstd") => {
            Ok(Compression::ZSTD(ZstdLevel::try_new(level.unwrap_or(ZSTD_LEVEL_DEFAULT)).map_err(bad_level)?))
        }
        Some("snappy") => Ok(Compression::SNAPPY),
        Some("lz4" | "lz4_raw") => Ok(Compression::LZ4_RAW),
        Some("gzip") => Ok(Compression::GZIP(GzipLevel::try_new(unsigned(6)).map_err(bad_level)?)),
        Some("brotli") => Ok(Compression::BROTLI(BrotliLevel::try_new(unsigned(1)).map_err(bad_level)?)),
        Some("uncompressed" | "none") => Ok(Compression::UNCOMPRESSED),
        Some(other) => {
            Err(format!("property `{CODEC}` is `{other}`: expected zstd, snappy, lz4, gzip, brotli or uncompressed"))
        }
    }
}
