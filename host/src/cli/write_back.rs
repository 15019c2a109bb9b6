//! `millrace swap --write`: the pipeline file gives what runs now, by its plugin's path and its configuration. Single values of
//! the file change; comments and the rest stay as they are. Never writes a secret, or over one.

use std::path::Path;

use serde_json::{Map, Value};

/// The file's text with another path of a plugin. An error says what to write by hand.
pub fn with_plugin_path(text: &str, plugin: &str, path: &str) -> Result<String, String> {
    let by_hand = || format!("write `path = \"{path}\"` into `[plugins.{plugin}]` by hand");
    let headers = [format!("[plugins.{plugin}]"), format!("[plugins.\"{plugin}\"]")];
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let mut inside = false;
    for line in &mut lines {
        let start = line.trim_start();
        if start.starts_with('[') {
            inside = headers.iter().any(|header| start.starts_with(header.as_str()));
            continue;
        }
        let is_path = start.strip_prefix("path").is_some_and(|rest| rest.trim_start().starts_with('='));
        if !inside || !is_path {
            continue;
        }
        let quoted = line.split_once('=').and_then(|(before, value)| {
            let quote = value.trim_start().chars().next().filter(|c| *c == '"' || *c == '\'')?;
            let opening = before.len() + 1 + value.find(quote)?;
            let closing = opening + 1 + line.get(opening + 1..)?.find(quote)?;
            Some((opening, closing))
        });
        let (opening, closing) = quoted.ok_or_else(by_hand)?;
        line.replace_range(opening..=closing, &format!("\"{path}\""));
        let changed = lines.concat();
        let table: toml::Table = changed.parse().map_err(|_| by_hand())?;
        let found = table.get("plugins").and_then(|p| p.get(plugin)).and_then(|p| p.get("path"));
        return if found.and_then(toml::Value::as_str) == Some(path) { Ok(changed) } else { Err(by_hand()) };
    }
    Err(by_hand())
}

/// The file's text with what of the configuration of an operator (`kind`: its table's, `aggregations` or `transforms`) runs and
/// is not what the file gives. Both are JSON, with markers in place of secrets. An error says what to write by hand.
pub fn with_config(text: &str, (kind, operator): (&str, &str), given: &str, runs: &str) -> Result<String, String> {
    let parse = |json: &str| -> Result<Map<String, Value>, String> {
        if json.is_empty() { Ok(Map::new()) } else { serde_json::from_str(json).map_err(|e| e.to_string()) }
    };
    let (given, runs) = (parse(given)?, parse(runs)?);
    if let Some(key) = given.keys().find(|key| !runs.contains_key(*key)) {
        return Err(format!("take `{key}` out of the `config` of `[{kind}.{operator}]` by hand"));
    }
    let mut text = text.to_owned();
    for (key, value) in runs.iter().filter(|(key, value)| given.get(*key) != Some(*value)) {
        let is_secret = |value: &Value| value.to_string().contains("${");
        if is_secret(value) || given.get(key).is_some_and(is_secret) {
            return Err(format!(
                "`{key}` in the `config` of `[{kind}.{operator}]` comes from a secret: change it by hand"
            ));
        }
        text = with_value(&text, (kind, operator), key, value)?;
    }
    Ok(text)
}

/// One edit of several that it may be: the first after which the file says this, and else what it said before.
fn with_value(text: &str, (kind, operator): (&str, &str), key: &str, value: &Value) -> Result<String, String> {
    let is_bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let quoted = if is_bare { key.to_owned() } else { Value::from(key).to_string() };
    let assignment = format!("{quoted} = {value}");
    let by_hand = || format!("write `{assignment}` into the `config` of `[{kind}.{operator}]` by hand");
    let wanted = (|| {
        let mut table: toml::Table = text.parse().ok()?;
        let operator = table.get_mut(kind)?.get_mut(operator)?.as_table_mut()?;
        let config = operator.entry("config").or_insert_with(|| toml::Table::new().into()).as_table_mut()?;
        config.insert(key.to_owned(), toml::Value::try_from(value).ok()?);
        Some(table)
    })();
    let wanted = wanted.ok_or_else(by_hand)?;
    let says_so = |changed: &String| changed.parse::<toml::Table>().is_ok_and(|table| table == wanted);
    let mut edits = replacements(text, &quoted, &value.to_string());
    edits.extend(insertions(text, (kind, operator), &assignment));
    edits.into_iter().find(says_so).ok_or_else(by_hand)
}

/// Every `key = …` with another value, up to everything that may end it.
fn replacements(text: &str, key: &str, value: &str) -> Vec<String> {
    let mut edits = Vec::new();
    for (at, _) in text.match_indices(key) {
        let after_key = at + key.len();
        let Some(rest) = text.get(after_key..).and_then(|rest| rest.lines().next()) else { continue };
        let Some(equals) = rest.find('=').filter(|equals| rest.get(..*equals).is_some_and(|gap| gap.trim().is_empty()))
        else {
            continue;
        };
        let ends = rest.match_indices([',', '}', '#']).map(|(end, _)| end).chain(std::iter::once(rest.len()));
        for end in ends.filter(|end| *end > equals) {
            let Some(old) = rest.get(equals + 1..end) else { continue };
            let (before, after) =
                (text.get(..=after_key + equals), text.get(after_key + equals + 1 + old.trim_end().len()..));
            edits.extend(before.zip(after).map(|(before, after)| format!("{before} {value}{after}")));
        }
    }
    edits
}

/// Into the table of the configuration, wherever that stands.
fn insertions(text: &str, (kind, operator): (&str, &str), assignment: &str) -> Vec<String> {
    let mut edits = Vec::new();
    let insert = |at: usize, what: String| Some(format!("{}{what}{}", text.get(..at)?, text.get(at..)?));
    let is_header = |line: &str, below: &str| {
        [operator.to_owned(), format!("\"{operator}\"")]
            .iter()
            .any(|name| line.trim_start().starts_with(&format!("[{kind}.{name}{below}]")))
    };
    let (mut at, mut inside, mut end_of_section) = (0, false, None);
    for line in text.split_inclusive('\n') {
        let after = at + line.len();
        if line.trim_start().starts_with('[') {
            inside = is_header(line, "");
            if is_header(line, ".config") {
                edits.extend(insert(after, format!("{assignment}\n")));
            }
        } else if inside && line.trim_start().starts_with("config") {
            for (brace, _) in line.match_indices('}') {
                let body = line.get(..brace).unwrap_or_default().trim_end();
                let comma = if body.ends_with('{') { " " } else { ", " };
                let rest = text.get(at + brace..).unwrap_or_default();
                edits.extend(text.get(..at + body.len()).map(|before| format!("{before}{comma}{assignment} {rest}")));
            }
        }
        if inside && !line.trim().is_empty() && line.ends_with('\n') {
            end_of_section = Some(after);
        }
        at = after;
    }
    edits.extend(end_of_section.and_then(|at| insert(at, format!("config = {{ {assignment} }}\n"))));
    edits
}

/// As a pipeline file in `folder` names a file: below it, or in full.
pub fn path_from(folder: &Path, file: &Path) -> Result<String, String> {
    let whole = |path: &Path| std::fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()));
    let (folder, file) = (whole(folder)?, whole(file)?);
    let shown = file.strip_prefix(&folder).unwrap_or(&file).to_str().map(str::to_owned);
    shown
        .filter(|path| !path.contains(['"', '\\', '$', '\n']))
        .ok_or_else(|| format!("{} cannot stand in a pipeline file as it is", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# of ours\n[plugins.other]\npath = \"o.wasm\"\n\n[plugins.counts]   # ads\ndeadline = \"1s\"\n\
                        path = 'old.wasm'   # built by CI\n\n[sources.path]\npath = \"x\"\n";

    #[test]
    fn one_value_changes() {
        let changed = with_plugin_path(FILE, "counts", "v2/new.wasm").unwrap();
        assert_eq!(changed, FILE.replace("'old.wasm'", "\"v2/new.wasm\""));
        assert_eq!(with_plugin_path(&changed, "counts", "v2/new.wasm").unwrap(), changed);
    }

    #[test]
    fn what_is_not_understood_stays_and_is_said() {
        for file in [
            "plugins = { counts = { path = \"a\" } }\n",
            "[plugins.counts]\npath = old\n",
            "[plugins.other]\npath = \"a\"\n",
        ] {
            let said = with_plugin_path(file, "counts", "b").unwrap_err();
            assert!(said.contains("path = \"b\"") && said.contains("[plugins.counts]"), "{said}");
        }
    }

    /// As the file may have it; the value that is there, and how the line ends with another.
    const CONFIGURED: &str =
        "[aggregations.other]\nconfig = { mode = \"exact\" }\n\n[aggregations.metrics]\nplugin = \"m\"   # ours\n";

    fn configured(with: &str, given: &str, runs: &str) -> Result<String, String> {
        let text = format!("{CONFIGURED}{with}\n[sinks.out]\nmode = \"exact\"\n");
        let changed = with_config(&text, ("aggregations", "metrics"), given, runs)?;
        let rest =
            changed.strip_prefix(CONFIGURED).and_then(|rest| rest.strip_suffix("\n[sinks.out]\nmode = \"exact\"\n"));
        Ok(rest.expect("nothing else changes").to_owned())
    }

    #[test]
    fn the_configuration_that_runs_is_written_where_it_stands() {
        let given = r#"{"mode":"exact","n":1}"#;
        let runs = r#"{"by":[1,2],"mode":"a } b","n":1.5}"#;
        for (before, after) in [
            (
                "config = { mode = \"exact\", n = 1 }   # as agreed\n",
                "config = { mode = \"a } b\", n = 1.5, by = [1,2] }   # as agreed\n",
            ),
            (
                "[aggregations.metrics.config]\nmode = 'exact' # one\nn = 1\n",
                "[aggregations.metrics.config]\nby = [1,2]\nmode = \"a } b\" # one\nn = 1.5\n",
            ),
        ] {
            assert_eq!(configured(before, given, runs).unwrap(), after);
            assert_eq!(configured(after, runs, runs).unwrap(), after);
        }
        assert_eq!(configured("", "{}", r#"{"a b":true}"#).unwrap(), "config = { \"a b\" = true }\n");
        assert_eq!(configured("config = {}\n", "", r#"{"n":2}"#).unwrap(), "config = { n = 2 }\n");
    }

    #[test]
    fn a_secret_is_neither_written_nor_written_over() {
        let file = "config = { salt = \"${secret:SALT}\" }\n";
        let sealed = r#"{"salt":"${secret#1a2b}"}"#;
        assert_eq!(configured(file, sealed, sealed).unwrap(), file);
        assert_eq!(
            configured(file, sealed, r#"{"n":1,"salt":"${secret#1a2b}"}"#).unwrap(),
            "config = { salt = \"${secret:SALT}\", n = 1 }\n"
        );
        for runs in [r#"{"salt":"plain"}"#, r#"{"salt":"${secret#ffff}"}"#] {
            let said = configured(file, sealed, runs).unwrap_err();
            assert!(said.contains("`salt`") && said.contains("by hand") && !said.contains("plain"), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        for runs in [r#"{"n":null}"#, r#"{"n":{"a":1}}"#] {
            let said = configured("config = {}\n", "{}", runs).unwrap_err();
            assert!(said.contains("write `n = ") && said.contains("[aggregations.metrics]"), "{said}");
        }
        let said = configured("config = { n = 1 }\n", r#"{"n":1}"#, "{}").unwrap_err();
        assert!(said.contains("take `n` out"), "{said}");
    }
}
