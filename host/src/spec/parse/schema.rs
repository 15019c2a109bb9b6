//! `[schemas.NAME]`: columns in order, their types, and where each is found in a message.

use crate::spec::cursor::Cursor;
use crate::spec::model::SourceSchema;
use crate::spec::suggest;
use millrace_core::schema::{DataType, Field, Schema};

const DECIMAL_DIGITS_MAX: u8 = 38;

const TYPES: [(&str, DataType); 10] = [
    ("string", DataType::String),
    ("int", DataType::Int),
    ("long", DataType::Long),
    ("float", DataType::Float),
    ("double", DataType::Double),
    ("boolean", DataType::Boolean),
    ("date", DataType::Date),
    ("timestamp", DataType::Timestamp),
    ("timestamptz", DataType::Timestamptz),
    ("binary", DataType::Binary),
];

/// What other systems call our types.
const ALIASES: [(&str, &str); 18] = [
    ("integer", "int"),
    ("int32", "int"),
    ("i32", "int"),
    ("bigint", "long"),
    ("int64", "long"),
    ("i64", "long"),
    ("float32", "float"),
    ("f32", "float"),
    ("float64", "double"),
    ("f64", "double"),
    ("number", "double"),
    ("bool", "boolean"),
    ("text", "string"),
    ("varchar", "string"),
    ("utf8", "string"),
    ("datetime", "timestamptz"),
    ("bytes", "binary"),
    ("numeric", "decimal(18,2)"),
];

pub fn read(c: &Cursor<'_>) -> Option<SourceSchema> {
    let names = c.keys();
    if names.is_empty() {
        let found = crate::spec::diagnostic::Diagnostic::error(c.own_span(), format!("{} has no columns", c.what()));
        c.report(found.hint("write one per line: `user_id = \"string\"`"));
        return None;
    }
    let mut fields = Vec::new();
    let mut paths = Vec::new();
    for name in &names {
        let (written, path) = if c.is_table(name) {
            let Some(column) = c.table(name, format!("column `{name}`")) else { continue };
            let written = column.required("type", Cursor::string).map(|text| (text, column.value_span(&["type"])));
            let path = column.string("path");
            let path = path.and_then(|path| split_path(&column, &path)).unwrap_or_else(|| vec![name.clone()]);
            column.finish();
            (written, path)
        } else {
            (c.string(name).map(|text| (text, c.value_span(&[name]))), vec![name.clone()])
        };
        if name.is_empty() || name.chars().any(char::is_control) {
            c.wrong(&[name], "a column needs a name that can be read", "take the control characters out");
        }
        let Some((written, span)) = written else { continue };
        match parse_type(&written) {
            Ok((data_type, nullable)) => {
                fields.push(Field::new(name.as_str(), data_type, nullable));
                paths.push(path);
            }
            Err((message, hint)) => {
                c.report(crate::spec::diagnostic::Diagnostic::error(span, message).hint_if_any(hint));
            }
        }
    }
    c.finish();
    (fields.len() == names.len()).then(|| SourceSchema { schema: Schema::new(fields), paths })
}

fn split_path(c: &Cursor<'_>, path: &str) -> Option<Vec<String>> {
    let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
    if parts.iter().any(String::is_empty) {
        c.wrong(&["path"], format!("`{path}` has an empty step"), "write `path = \"geo.country\"`");
        return None;
    }
    Some(parts)
}

/// `"double?"` → (double, nullable); else the message and a hint.
pub(crate) fn parse_type(written: &str) -> Result<(DataType, bool), (String, Option<String>)> {
    let (name, nullable) = match written.strip_suffix('?') {
        Some(name) => (name, true),
        None => (written, false),
    };
    if let Some((_, data_type)) = TYPES.iter().find(|(known, _)| *known == name) {
        return Ok((*data_type, nullable));
    }
    if let Some(arguments) = name.strip_prefix("decimal") {
        return decimal(arguments).map(|data_type| (data_type, nullable)).ok_or_else(|| {
            let hint =
                format!("write `decimal(18,2)`: at most {DECIMAL_DIGITS_MAX} digits, of them some after the point");
            (format!("`{written}` is not a decimal type"), Some(hint))
        });
    }
    let mark = if nullable { "?" } else { "" };
    let hint = match ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)) {
        Some((_, ours)) => Some(format!("it is called `{ours}{mark}` here")),
        None => suggest::did_you_mean(name, TYPES.iter().map(|(known, _)| *known).chain(["decimal(p,s)"])),
    };
    Err((format!("unknown type `{written}`"), hint))
}

fn decimal(arguments: &str) -> Option<DataType> {
    let (precision, scale) = arguments.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    (1..=DECIMAL_DIGITS_MAX).contains(&precision).then_some(())?;
    (scale <= precision).then_some(DataType::Decimal { precision, scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        assert_eq!(parse_type("double?"), Ok((DataType::Double, true)));
        assert_eq!(parse_type("decimal(18, 4)"), Ok((DataType::Decimal { precision: 18, scale: 4 }, false)));
        for bad in ["decimal", "decimal(39,0)", "decimal(0,0)", "decimal(2,3)", "decimal(1)", "Long", "list<long>", "?"]
        {
            assert!(parse_type(bad).is_err(), "{bad}");
        }
        for (name, data_type) in TYPES {
            assert_eq!(parse_type(name), Ok((data_type, false)));
            assert_eq!(data_type.to_string(), name);
        }
    }
}
