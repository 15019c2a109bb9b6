//! Paths and URIs of the pipeline file, made absolute once: relative to the file, never to where the command runs.

use std::path::{Component, Path, PathBuf};

use super::model::Location;
use std::collections::BTreeMap;

/// Joins and tidies without looking at the disk: `.` and `..` are resolved by name.
pub fn absolute(dir: &Path, path: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for component in dir.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                // above the root is the root
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// The scheme of a URI: two letters or more before a colon.
pub fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let valid = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some(scheme)
}

/// What is wrong with a path or URI, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub struct BadUri {
    pub message: String,
    pub hint: String,
}

fn bad(message: impl Into<String>, hint: impl Into<String>) -> BadUri {
    BadUri { message: message.into(), hint: hint.into() }
}

/// A folder of this machine, or a prefix in an object store.
pub fn location(dir: &Path, text: &str) -> Result<Location, BadUri> {
    match scheme(text) {
        None if text.is_empty() => Err(bad("an empty path", "name a folder, or `s3://bucket/prefix`")),
        None => Ok(Location::Local(absolute(dir, text))),
        Some("file") => Ok(Location::Local(file_uri(text)?)),
        Some("s3") => {
            bucket(text)?;
            Ok(Location::ObjectStore { url: text.trim_end_matches('/').to_owned(), properties: BTreeMap::new() })
        }
        Some(other @ ("gs" | "gcs" | "az" | "abfs" | "abfss" | "azblob" | "s3a" | "hdfs" | "http" | "https")) => {
            Err(bad(format!("`{other}:` is not supported yet"), "use a folder, or `s3://bucket/prefix`"))
        }
        Some(other) => Err(bad(format!("unknown scheme `{other}:`"), "use a folder, or `s3://bucket/prefix`")),
    }
}

/// A catalog's warehouse as the `iceberg` crate takes it: `file:///…` or `s3://…`.
pub fn warehouse(dir: &Path, text: &str) -> Result<String, BadUri> {
    match location(dir, text)? {
        Location::Local(path) => Ok(format!("file://{}", utf8(&path)?)),
        Location::ObjectStore { url, .. } => Ok(url),
    }
}

/// `sqlite:` with an absolute path; whatever follows a `?` stays.
pub fn sqlite(dir: &Path, text: &str) -> Result<String, BadUri> {
    let hint = "write `uri = \"sqlite:warehouse/catalog.db\"`";
    let path = match scheme(text) {
        Some("sqlite") => text.strip_prefix("sqlite:").unwrap_or(text),
        Some(other @ ("postgres" | "postgresql" | "mysql" | "mariadb")) => {
            return Err(bad(format!("a catalog in `{other}:` is not supported yet"), hint));
        }
        _ => return Err(bad(format!("`{text}` is not the address of an SQL catalog"), hint)),
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    if path.is_empty() || path.contains(":memory:") || query.is_some_and(|query| query.contains("mode=memory")) {
        return Err(bad("a catalog in memory would be gone with the process, and its tables with it", hint));
    }
    let path = absolute(dir, path);
    let path = utf8(&path)?;
    Ok(query.map_or_else(|| format!("sqlite:{path}"), |query| format!("sqlite:{path}?{query}")))
}

fn file_uri(text: &str) -> Result<PathBuf, BadUri> {
    let rest = text.strip_prefix("file:").unwrap_or(text);
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(bad(
            format!("`{text}` is not absolute"),
            "write `file:///absolute/path`, or a path without `file:`, which is relative to this file",
        ));
    }
    Ok(absolute(Path::new("/"), path))
}

fn bucket(text: &str) -> Result<(), BadUri> {
    let rest = text.strip_prefix("s3://").unwrap_or("");
    match rest.split('/').next() {
        Some(bucket) if !bucket.is_empty() => Ok(()),
        _ => Err(bad(format!("`{text}` names no bucket"), "write `s3://bucket/prefix`")),
    }
}

fn utf8(path: &Path) -> Result<&str, BadUri> {
    path.to_str().ok_or_else(|| bad(format!("{} is not UTF-8", path.display()), "move the project to another folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file_and_tidy() {
        let dir = Path::new("/repo/pipelines");
        assert_eq!(absolute(dir, "../target/./p.wasm"), Path::new("/repo/target/p.wasm"));
        assert_eq!(absolute(dir, "/abs/x"), Path::new("/abs/x"));
        assert_eq!(absolute(dir, "../../../../x"), Path::new("/x"));
        assert_eq!(warehouse(dir, "./wh").unwrap(), "file:///repo/pipelines/wh");
        assert_eq!(warehouse(dir, "file:///data/wh").unwrap(), "file:///data/wh");
        assert_eq!(warehouse(dir, "s3://b/p/").unwrap(), "s3://b/p");
        assert_eq!(sqlite(dir, "sqlite:wh/c.db").unwrap(), "sqlite:/repo/pipelines/wh/c.db");
        assert_eq!(sqlite(dir, "sqlite:///data/c.db?mode=rwc").unwrap(), "sqlite:/data/c.db?mode=rwc");
        assert_eq!(location(dir, "file:/x/y").unwrap(), Location::Local("/x/y".into()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let dir = Path::new("/repo");
        for text in ["file:x", "file://x/y", "s3://", "s3:///x", "gs://b/p", "ftp://x/y", ""] {
            assert!(location(dir, text).is_err(), "{text}");
        }
        for text in ["warehouse/c.db", "sqlite::memory:", "sqlite:", "postgres://x/y", "sqlite:x.db?mode=memory"] {
            assert!(sqlite(dir, text).is_err(), "{text}");
        }
    }
}
