//! `millrace plugin inspect`: what a plugin is, and, opened with some columns, what it takes, keeps and gives.

use millrace_core::schema::{Field, Schema};
use serde_json::{Value, json};

use super::project::Project;
use super::{Form, InspectArgs, load};
use crate::cli::Failure;
use crate::golden::case;
use crate::plugin::artifact::{Artifact, is_wasi_0_2};
use crate::plugin::{Info, Kind, Signature};
use crate::spec::columns::offered_schema;
use crate::spec::{parse, show_bytes};

/// What a plugin is opened with, and where that comes from.
struct Offer {
    config: String,
    columns: Schema,
    from: String,
}

pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let project = if args.path.is_dir() { Some(Project::load(&args.path)?) } else { None };
    let path = project.as_ref().map_or(args.path.as_path(), |project| project.component.as_path());
    let artifact = load::artifact(path, project.as_ref())?;
    let offer = offer(args, project.as_ref(), artifact.kind())?;
    let engine = load::engine()?;
    let factory = load::aggregation(&engine, &artifact)?;
    let opened = offer.as_ref().map(|offer| {
        let opened = factory.open(&offer.config, &offer.columns).map(|plugin| plugin.signature().clone());
        (offer, opened.map_err(|error| error.to_string()))
    });
    match args.format {
        Form::Json => println!("{:#}", to_json(factory.info(), &artifact, opened.as_ref())),
        Form::Text => print(path, factory.info(), &artifact, opened.as_ref()),
    }
    match opened {
        Some((_, Err(error))) if args.format == Form::Text => Err(Failure::Usage(format!("error: {error}"))),
        _ => Ok(()),
    }
}

/// `--schema` and `--config`, filled up from the project's first case.
fn offer(args: &InspectArgs, project: Option<&Project>, kind: Kind) -> Result<Option<Offer>, Failure> {
    let config = args.config.clone();
    if let Some(text) = &config
        && let Err(error) = serde_json::from_str::<Value>(text)
    {
        return Err(Failure::Usage(format!("error: --config is not JSON: {error}\nhint: --config '{{\"name\": 1}}'")));
    }
    if let Some(text) = &args.schema {
        let columns = columns(text).map_err(|error| {
            Failure::Usage(format!("error: --schema: {error}\nhint: --schema 'user_id:string,amount:double?'"))
        })?;
        return Ok(Some(Offer { config: config.unwrap_or_else(|| "{}".into()), columns, from: "--schema".into() }));
    }
    let case = project.into_iter().flat_map(Project::cases).find_map(|file| case::load(&file, kind).ok());
    Ok(case.map(|case| Offer {
        config: config.unwrap_or(case.config),
        columns: offered_schema(&case.schema.schema, &case.columns),
        from: format!("the case `{}`", case.name),
    }))
}

fn columns(text: &str) -> Result<Schema, String> {
    let mut depth = 0_u32;
    // the comma of decimal(18,2) separates nothing
    let parts = text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    let fields = parts.map(|part| {
        let (name, written) = part.split_once(':').ok_or_else(|| format!("`{}` has no type", part.trim()))?;
        let (data_type, nullable) = parse::schema::parse_type(written.trim())
            .map_err(|(what, hint)| hint.map_or(what.clone(), |hint| format!("{what}: {hint}")))?;
        Ok(Field::new(name.trim(), data_type, nullable))
    });
    Ok(Schema::new(fields.collect::<Result<_, String>>()?))
}

type Opened<'o> = (&'o Offer, Result<Signature, String>);

fn print(path: &std::path::Path, info: &Info, artifact: &Artifact, opened: Option<&Opened<'_>>) {
    println!("{} {}, {} plugin", info.name, info.version, artifact.kind().name());
    let wrapped = if artifact.was_core_module() { ", a core module" } else { "" };
    let size = show_bytes(u64::try_from(artifact.size_bytes()).unwrap_or(u64::MAX));
    println!("  file       {}, {size}{wrapped}", path.display());
    println!("  sha256     {}", artifact.digest());
    println!("  interface  millrace:{}@{}", artifact.kind().name(), artifact.kind().wit_version());
    let mut label = "imports  ";
    for import in artifact.imports() {
        println!("  {label}  {import}{}", if is_wasi_0_2(import) { "  (inert: answers nothing)" } else { "" });
        label = "         ";
    }
    if artifact.imports().is_empty() {
        println!("  imports    nothing");
    }
    println!("  options    {}", options(&info.config_schema).join("\n             "));
    match opened {
        None => println!("  columns    open it with --schema 'name:type,…' to see them"),
        Some((offer, Ok(signature))) => {
            let wanted: Vec<String> = signature.input.iter().map(wanted).collect();
            println!("\nwith the columns of {}:", offer.from);
            println!("  reads      {}", or_nothing(&wanted));
            println!("  keeps      {}", or_nothing(&shown(&signature.state)));
            println!("  gives      {}", or_nothing(&shown(&signature.output)));
            if signature.ordered {
                println!("  ordered    its result depends on the order of rows and merges");
            }
        }
        Some((offer, Err(_))) => println!("\nit cannot be opened with the columns of {}:", offer.from),
    }
}

fn or_nothing(columns: &[String]) -> String {
    if columns.is_empty() { "nothing".to_owned() } else { columns.join(", ") }
}

fn shown(schema: &Schema) -> Vec<String> {
    schema.fields.iter().map(Field::to_string).collect()
}

fn wanted(wanted: &crate::plugin::Wanted) -> String {
    format!("{}{}", wanted.field, if wanted.optional { " (or missing)" } else { "" })
}

/// One line per option of a JSON Schema, as far as it is an object with properties.
fn options(schema: &str) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    let lines: Vec<String> = properties
        .into_iter()
        .flatten()
        .map(|(name, option)| {
            let mut line = name.clone();
            if let Some(values) = option.get("enum").and_then(Value::as_array) {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                line.push_str(&format!(": {}", values.join(" | ")));
            } else if let Some(kind) = option.get("type") {
                line.push_str(&format!(": {}", kind.as_str().map_or_else(|| kind.to_string(), str::to_owned)));
            }
            match option.get("default") {
                Some(default) => line.push_str(&format!(", default {default}")),
                None if required.contains(&name.as_str()) => line.push_str(", required"),
                None => {}
            }
            line
        })
        .collect();
    if lines.is_empty() { vec!["none".to_owned()] } else { lines }
}

fn to_json(info: &Info, artifact: &Artifact, opened: Option<&Opened<'_>>) -> Value {
    let schema = |schema: &Schema| -> Value {
        schema
            .fields
            .iter()
            .map(|f| json!({ "name": f.name, "type": f.data_type.to_string(), "nullable": f.nullable }))
            .collect()
    };
    let signature = opened.map(|(offer, signature)| match signature {
        Err(error) => json!({ "error": error }),
        Ok(signature) => json!({
            "config": serde_json::from_str::<Value>(&offer.config).unwrap_or_default(),
            "input": signature.input.iter().map(|w| json!({
                "name": w.field.name,
                "type": w.field.data_type.to_string(),
                "nullable": w.field.nullable,
                "optional": w.optional,
                "dictionary": w.dictionary,
            })).collect::<Vec<_>>(),
            "state": schema(&signature.state),
            "output": schema(&signature.output),
            "ordered": signature.ordered,
        }),
    });
    json!({
        "name": info.name,
        "version": info.version,
        "kind": artifact.kind().name(),
        "sha256": artifact.digest(),
        "bytes": artifact.size_bytes(),
        "interface": format!("millrace:{}@{}", artifact.kind().name(), artifact.kind().wit_version()),
        "imports": artifact.imports(),
        "inert": artifact.imports().iter().filter(|import| is_wasi_0_2(import)).collect::<Vec<_>>(),
        "config_schema": serde_json::from_str::<Value>(&info.config_schema).unwrap_or_default(),
        "signature": signature,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_written_as_in_a_schema() {
        let schema = columns("user_id:string, price:decimal(18,2)?").unwrap();
        assert_eq!(shown(&schema), ["user_id: string", "price: decimal(18,2)?"]);
        assert!(columns("user_id").unwrap_err().contains("no type"));
        assert!(columns("n:i64").unwrap_err().contains("`long`"));
    }
}
