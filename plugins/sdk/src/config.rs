//! Options: JSON Schema, parsing, and errors that name what was found and what is allowed.

use serde_json::{Map, Value, json};

use crate::distinct::Distinct;

/// A plugin's options: derive it with `#[derive(Config)]`, or use `()`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no configuration",
    note = "put `#[derive(Config)]` above the struct, or use `()` if there are no options"
)]
pub trait Config: Sized + Send + 'static {
    /// JSON Schema (2020-12)
    fn schema() -> Value;
    fn parse(options: &Map<String, Value>) -> Result<Self, String>;
}

/// The type of one option.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an option",
    note = "options are i64, u32, f64, bool, String, Vec<String>, Distinct, or an Option of these"
)]
pub trait ConfigValue: Sized {
    fn schema() -> Value;
    /// none: the option may be left out, and then has this value
    fn absent() -> Option<Self> {
        None
    }
    fn parse(value: &Value) -> Result<Self, String>;
}

/// Parses the text that the host hands over; an empty one stands for no options.
pub fn parse<C: Config>(text: &str) -> Result<C, String> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    match serde_json::from_str(text) {
        Ok(Value::Object(options)) => C::parse(&options),
        Ok(other) => Err(format!("the configuration is a table of options, not {other}")),
        Err(e) => Err(format!("the configuration is not JSON: {e}")),
    }
}

/// Whether two texts give the same options, by the defaults that the schema names.
pub fn same(one: &str, other: &str, schema: &str) -> bool {
    let schema = serde_json::from_str(schema).unwrap_or(Value::Null);
    match (completed(one, &schema), completed(other, &schema)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// The options with their defaults filled in, numbers in one form; none: no table of options.
fn completed(text: &str, schema: &Value) -> Option<Map<String, Value>> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let Ok(Value::Object(mut options)) = serde_json::from_str(text) else { return None };
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let (None, Some(default)) = (options.get(name), property.get("default")) {
            options.insert(name.clone(), default.clone());
        }
        if let (Some(value), Some("number")) = (options.get_mut(name), property.get("type").and_then(Value::as_str))
            && let Some(number) = value.as_f64()
        {
            *value = json!(number);
        }
    }
    Some(options)
}

impl Config for () {
    fn schema() -> Value {
        object(json!({}), &[])
    }
    fn parse(options: &Map<String, Value>) -> Result<Self, String> {
        refuse_unknown(options, &[])
    }
}

/// The schema of a table of options.
pub fn object(properties: Value, required: &[&str]) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    })
}

/// Refuses options that there are not, and says which there are.
pub fn refuse_unknown(options: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match options.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) if known.is_empty() => Err(format!("unknown option `{name}`: this plugin has no options")),
        Some(name) => Err(format!("unknown option `{name}`; there are: {}", known.join(", "))),
    }
}

/// One option of the table: as given, or its default.
pub fn option<T: ConfigValue>(options: &Map<String, Value>, name: &str, default: Option<Value>) -> Result<T, String> {
    let wrong = |e| format!("option `{name}`: {e}");
    match (options.get(name), default) {
        (Some(value), _) => T::parse(value).map_err(wrong),
        (None, Some(value)) => T::parse(&value).map_err(wrong),
        (None, None) => T::absent().ok_or_else(|| format!("option `{name}` is missing")),
    }
}

/// An option's schema with its default.
pub fn property<T: ConfigValue>(default: Option<Value>) -> Value {
    let mut schema = T::schema();
    if let (Some(default), Value::Object(fields)) = (default, &mut schema) {
        fields.insert("default".into(), default);
    }
    schema
}

macro_rules! options {
    ($($rust:ty, $schema:tt, $what:literal, |$v:ident| $parse:expr;)+) => { $(
        impl ConfigValue for $rust {
            fn schema() -> Value {
                json!($schema)
            }
            fn parse($v: &Value) -> Result<Self, String> {
                $parse.ok_or_else(|| format!("{} is wanted, found {}", $what, $v))
            }
        }
    )+ };
}

options! {
    i64, { "type": "integer" }, "a whole number", |v| v.as_i64();
    u32, { "type": "integer", "minimum": 0, "maximum": 4_294_967_295u32 }, "a whole number from 0 to 4294967295", |v| v.as_u64().and_then(|n| u32::try_from(n).ok());
    f64, { "type": "number" }, "a number", |v| v.as_f64();
    bool, { "type": "boolean" }, "true or false", |v| v.as_bool();
    String, { "type": "string" }, "a string", |v| v.as_str().map(String::from);
    Distinct, { "enum": ["exact", "hll"] }, "\"exact\" or \"hll\"", |v| match v.as_str() {
        Some("exact") => Some(Self::Exact),
        Some("hll") => Some(Self::Hll),
        _ => None,
    };
}

impl ConfigValue for Vec<String> {
    fn schema() -> Value {
        json!({ "type": "array", "items": { "type": "string" } })
    }
    fn parse(value: &Value) -> Result<Self, String> {
        let texts = value.as_array().and_then(|all| all.iter().map(|v| v.as_str().map(String::from)).collect());
        texts.ok_or_else(|| format!("a list of strings is wanted, found {value}"))
    }
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    fn schema() -> Value {
        T::schema()
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn parse(value: &Value) -> Result<Self, String> {
        T::parse(value).map(Some)
    }
}
