//! `millrace swap --write`: the pipeline file gives what runs now. One value of the file changes; comments and the rest stay as
//! they are.

use std::path::Path;

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
}
