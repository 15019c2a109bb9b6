//! `millrace plugin inspect`: what a plugin is, and, opened with some columns, what it takes, keeps and gives.

use millrace_core::schema::{Field, Schema};
use serde_json::{Value, json};

use super::project::Project;
use super::{Form, InspectArgs, load};
use crate::cli::Failure;
use crate::golden::case;
use crate::plugin::{Inspection, Kind, Shape, Wanted, inspect, shape};
use crate::spec::columns::offered_schema;
use crate::spec::{parse, show_bytes};

/// What a plugin is opened with, and where that comes from.
struct Offer {
    config: String,
    columns: Schema,
    /// a join's second input
    right: Schema,
    from: String,
}

pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let is_dir = args.path.is_dir();
    let project = if is_dir { Some(Project::load(&args.path)?) } else { Project::of(&args.path) };
    let of_dir = project.as_ref().filter(|_| is_dir).map(|project| project.component.as_path());
    let path = of_dir.unwrap_or(&args.path);
    let artifact = load::artifact(path, project.as_ref())?;
    let offer = offer(args, project.as_ref(), artifact.kind())?;
    let engine = load::engine()?;
    let found = inspect(&engine, &artifact).map_err(anyhow::Error::new)?;
    let opened = offer.as_ref().map(|offer| {
        let opened = shape(&engine, &artifact, &offer.config, &offer.columns, &offer.right);
        (offer, opened.map_err(|error| error.to_string()))
    });
    match args.format {
        Form::Json => println!("{:#}", to_json(&found, opened.as_ref())),
        Form::Text => print(path, &found, opened.as_ref()),
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
        let read = |text: &str| {
            columns(text).map_err(|error| {
                Failure::Usage(format!("error: --schema: {error}\nhint: --schema 'user_id:string,amount:double?'"))
            })
        };
        let right = args.right_schema.as_deref().map(read).transpose()?.unwrap_or_default();
        let config = config.unwrap_or_else(|| "{}".into());
        return Ok(Some(Offer { config, columns: read(text)?, right, from: "--schema".into() }));
    }
    if kind == Kind::Join {
        return Ok(None);
    }
    let case = project.into_iter().flat_map(Project::cases).find_map(|file| case::load(&file, kind).ok());
    Ok(case.map(|case| Offer {
        config: config.unwrap_or(case.config),
        columns: offered_schema(&case.schema.schema, &case.columns),
        right: Schema::default(),
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

type Opened<'o> = (&'o Offer, Result<Shape, String>);

fn print(path: &std::path::Path, found: &Inspection, opened: Option<&Opened<'_>>) {
    println!("{} {}, {} plugin", found.info.name, found.info.version, found.kind.name());
    let wrapped = if found.was_core_module { ", a core module" } else { "" };
    let size = show_bytes(u64::try_from(found.size_bytes).unwrap_or(u64::MAX));
    println!("  file       {}, {size}{wrapped}", path.display());
    println!("  sha256     {}", found.digest);
    println!("  interface  millrace:{}@{}", found.kind.name(), found.wit_version);
    let imports: Vec<String> = found
        .imports
        .iter()
        .map(|import| {
            format!("{import}{}", if found.inert.contains(import) { "  (inert: answers nothing)" } else { "" })
        })
        .collect();
    println!("  imports    {}", lines(imports, "nothing"));
    println!("  options    {}", lines(options(&found.info.config_schema), "none"));
    match opened {
        None if found.kind == Kind::Join => {
            println!("  columns    open it with --schema 'name:type,…' --right-schema '…' to see them");
        }
        None => println!("  columns    open it with --schema 'name:type,…' to see them"),
        Some((offer, Ok(shape))) => {
            println!("\nwith the columns of {}:", offer.from);
            match shape {
                Shape::Aggregation(signature) => {
                    println!("  reads      {}", or_nothing(&signature.input.iter().map(wanted).collect::<Vec<_>>()));
                    println!("  keeps      {}", or_nothing(&shown(&signature.state)));
                    println!("  gives      {}", or_nothing(&shown(&signature.output)));
                    if signature.ordered {
                        println!("  ordered    its result depends on the order of rows and merges");
                    }
                }
                Shape::Transform(signature) => {
                    println!("  reads      {}", or_nothing(&signature.input.iter().map(wanted).collect::<Vec<_>>()));
                    println!("  gives      {}, and the input's other columns", or_nothing(&shown(&signature.output)));
                }
                Shape::Join(signature) => {
                    println!("  left       {}", or_nothing(&signature.left.iter().map(wanted).collect::<Vec<_>>()));
                    println!("  right      {}", or_nothing(&signature.right.iter().map(wanted).collect::<Vec<_>>()));
                    println!("  gives      {}", or_nothing(&shown(&signature.output)));
                }
            }
        }
        Some((offer, Err(_))) => println!("\nit cannot be opened with the columns of {}:", offer.from),
    }
}

fn lines(all: Vec<String>, none: &str) -> String {
    if all.is_empty() { none.to_owned() } else { all.join("\n             ") }
}

fn or_nothing(columns: &[String]) -> String {
    if columns.is_empty() { "nothing".to_owned() } else { columns.join(", ") }
}

fn shown(schema: &Schema) -> Vec<String> {
    schema.fields.iter().map(Field::to_string).collect()
}

fn wanted(wanted: &Wanted) -> String {
    format!("{}{}", wanted.field, if wanted.optional { " (or missing)" } else { "" })
}

/// One line per option of a JSON Schema, as far as it is an object with properties.
fn options(schema: &str) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
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
        .collect()
}

fn to_json(found: &Inspection, opened: Option<&Opened<'_>>) -> Value {
    let gives = |schema: &Schema| -> Value {
        schema
            .fields
            .iter()
            .map(|f| json!({ "name": f.name, "type": f.data_type.to_string(), "nullable": f.nullable }))
            .collect()
    };
    let takes = |wanted: &[Wanted]| -> Value {
        wanted
            .iter()
            .map(|w| {
                json!({
                    "name": w.field.name,
                    "type": w.field.data_type.to_string(),
                    "nullable": w.field.nullable,
                    "optional": w.optional,
                    "dictionary": w.dictionary,
                })
            })
            .collect()
    };
    let signature = opened.map(|(_, shape)| match shape {
        Err(error) => json!({ "error": error }),
        Ok(Shape::Aggregation(s)) => json!({
            "input": takes(&s.input),
            "state": gives(&s.state),
            "output": gives(&s.output),
            "ordered": s.ordered,
        }),
        Ok(Shape::Transform(s)) => json!({ "input": takes(&s.input), "output": gives(&s.output) }),
        Ok(Shape::Join(s)) => {
            json!({ "left": takes(&s.left), "right": takes(&s.right), "output": gives(&s.output) })
        }
    });
    json!({
        "name": found.info.name,
        "version": found.info.version,
        "kind": found.kind.name(),
        "sha256": found.digest,
        "bytes": found.size_bytes,
        "interface": format!("millrace:{}@{}", found.kind.name(), found.wit_version),
        "imports": found.imports,
        "inert": found.inert,
        "config_schema": serde_json::from_str::<Value>(&found.info.config_schema).unwrap_or_default(),
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
