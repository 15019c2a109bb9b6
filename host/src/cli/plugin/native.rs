//! The same plugin natively, for `bench`: a crate that links the project's own, run on the same rows. Only for Rust
//! projects made by `plugin new`; anything that is in the way is a reason, not a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arrow_array::types::TimestampMicrosecondType;
use arrow_array::types::{Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, cast::AsArray as _};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use millrace_core::schema::{DataType, Schema};

use super::project::Project;
use super::{Language, vendor};

const MAIN: &str = "plugins/templates/rust/bench";

pub struct Rows<'r> {
    pub config: &'r str,
    pub offered: &'r Schema,
    pub columns: &'r [Option<ArrayRef>],
    pub groups: &'r [u32],
    pub total: u32,
}

/// ns per row of each batch size; else why not.
pub fn measure(project: &Project, rows: &Rows<'_>, batches: &[usize]) -> Result<Vec<f64>, String> {
    if project.language != Language::Rust {
        return Err(format!("{} has no native build", project.language.name()));
    }
    let dir = std::path::absolute(&project.dir).map_err(|e| e.to_string())?;
    let sdk = dir.join(vendor::FOLDER).join("plugins/sdk");
    if !sdk.is_dir() {
        return Err(format!("the project has no SDK of its own in {}", sdk.display()));
    }
    let folder = dir.join("target/native-bench");
    write_crate(&dir, &sdk, &folder, rows)?;
    let data = folder.join("rows.bin");
    std::fs::write(&data, encode(rows)?).map_err(|e| e.to_string())?;
    eprintln!("building the plugin natively, to compare …");
    let mut command = Command::new("cargo");
    command.args(["run", "--release", "--quiet", "--manifest-path"]).arg(folder.join("Cargo.toml"));
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command.arg("--target-dir").arg(dir.join("target"));
    }
    command.arg("--").arg(&data).args(batches.iter().map(usize::to_string));
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo cannot be started: {e}"))?;
    if !output.status.success() {
        return Err("its native build failed; the reasons are above".to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let measured: Vec<f64> = text.lines().filter_map(|line| line.split_once(' ')?.1.parse().ok()).collect();
    if measured.len() == batches.len() { Ok(measured) } else { Err("it did not answer as expected".to_owned()) }
}

fn write_crate(dir: &Path, sdk: &Path, folder: &Path, rows: &Rows<'_>) -> Result<(), String> {
    let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()));
    let manifest: toml::Table = toml::from_str(&read(dir.join("Cargo.toml"))?).map_err(|e| e.to_string())?;
    let package = manifest.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str);
    let package = package.ok_or("its Cargo.toml names no package")?;
    let source = read(dir.join("src/lib.rs"))?;
    let implementation =
        regex::Regex::new(r"impl(?:\s+\w+::)*\s*Aggregation\s+for\s+(\w+)").map_err(|e| e.to_string())?;
    let name = implementation.captures(&source).and_then(|found| found.get(1));
    let name = name.ok_or("src/lib.rs has no `impl Aggregation for …`")?.as_str();
    let main = vendor::below(MAIN).find(|(path, _)| *path == "main.rs").map_or("", |(_, text)| text);
    let offered: Vec<String> = rows
        .offered
        .fields
        .iter()
        .map(|f| Ok(format!("Field::new({:?}, DataType::{}, {})", f.name, sdk_type(f.data_type)?, f.nullable)))
        .collect::<Result<_, String>>()?;
    let main = main
        .replace("{{type}}", name)
        .replace("{{config}}", &format!("{:?}", rows.config))
        .replace("{{offered}}", &offered.join(", "));
    let manifest = format!(
        "[package]\nname = \"native-bench\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         plugin = {{ package = {package:?}, path = {dir:?} }}\nmillrace-plugin = {{ path = {sdk:?} }}\n\n[workspace]\n\n\
         [profile.release]\nlto = true\ncodegen-units = 1\n"
    );
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder.join("src")).map_err(failed)?;
    std::fs::write(folder.join("src/main.rs"), main).map_err(failed)?;
    std::fs::write(folder.join("Cargo.toml"), manifest).map_err(failed)?;
    // the versions that the project has
    let _ = std::fs::copy(dir.join("Cargo.lock"), folder.join("Cargo.lock"));
    Ok(())
}

fn sdk_type(data_type: DataType) -> Result<String, String> {
    Ok(match data_type {
        DataType::Boolean => "Boolean",
        DataType::Int => "Int32",
        DataType::Long => "Int64",
        DataType::Float => "Float32",
        DataType::Double => "Float64",
        DataType::Decimal { precision, scale } => {
            return Ok(format!("Decimal {{ precision: {precision}, scale: {scale} }}"));
        }
        DataType::Date => "Date",
        DataType::Timestamp => "Timestamp",
        DataType::Timestamptz => "Timestamptz",
        DataType::String => "Utf8",
        DataType::Binary => "Binary",
        list => return Err(format!("it reads a {list}")),
    }
    .to_owned())
}

/// What the crate's `Reader` reads: counts, groups, then each column's kind, validity and values, all little-endian.
fn encode(rows: &Rows<'_>) -> Result<Vec<u8>, String> {
    let number = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|e| e.to_string());
    let mut out = Vec::new();
    out.extend(number(rows.groups.len())?);
    out.extend(rows.total.to_le_bytes());
    out.extend(number(rows.columns.len())?);
    out.extend(rows.groups.iter().flat_map(|group| group.to_le_bytes()));
    for column in rows.columns {
        let Some(column) = column else {
            out.extend([0, 0]);
            continue;
        };
        encode_column(column, &mut out)?;
    }
    Ok(out)
}

fn encode_column(column: &ArrayRef, out: &mut Vec<u8>) -> Result<(), String> {
    let kind = match column.data_type() {
        ArrowType::Boolean => 1,
        ArrowType::Int32 => 2,
        ArrowType::Int64 => 3,
        ArrowType::Float32 => 4,
        ArrowType::Float64 => 5,
        ArrowType::Decimal128(..) => 6,
        ArrowType::Date32 => 7,
        ArrowType::Timestamp(TimeUnit::Microsecond, None) => 8,
        ArrowType::Timestamp(TimeUnit::Microsecond, Some(_)) => 9,
        ArrowType::Utf8 => 10,
        ArrowType::Binary => 11,
        other => return Err(format!("it reads a {other}")),
    };
    out.extend([kind, u8::from(column.nulls().is_some())]);
    if let Some(nulls) = column.nulls() {
        out.extend(nulls.inner().sliced().iter().take(column.len().div_ceil(8)));
    }
    match kind {
        1 => out.extend(column.as_boolean().values().sliced().iter().take(column.len().div_ceil(8))),
        2 => out.extend(column.as_primitive::<Int32Type>().values().iter().flat_map(|v| v.to_le_bytes())),
        3 => out.extend(column.as_primitive::<Int64Type>().values().iter().flat_map(|v| v.to_le_bytes())),
        4 => out.extend(column.as_primitive::<Float32Type>().values().iter().flat_map(|v| v.to_le_bytes())),
        5 => out.extend(column.as_primitive::<Float64Type>().values().iter().flat_map(|v| v.to_le_bytes())),
        6 => out.extend(column.as_primitive::<Decimal128Type>().values().iter().flat_map(|v| v.to_le_bytes())),
        7 => out.extend(column.as_primitive::<Date32Type>().values().iter().flat_map(|v| v.to_le_bytes())),
        8 | 9 => {
            let values = column.as_primitive::<TimestampMicrosecondType>().values();
            out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
        10 => {
            let strings = column.as_string::<i32>();
            out.extend(strings.value_offsets().iter().flat_map(|v| v.to_le_bytes()));
            out.extend_from_slice(strings.value_data());
        }
        _ => {
            let binary = column.as_binary::<i32>();
            out.extend(binary.value_offsets().iter().flat_map(|v| v.to_le_bytes()));
            out.extend_from_slice(binary.value_data());
        }
    }
    Ok(())
}
