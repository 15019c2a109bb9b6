//! `${…}` in string values, filled in after parsing, so that a value can never change the file's structure.
//!
//! | written | becomes |
//! |---|---|
//! | `${VAR}` | the environment variable; not set is an error |
//! | `${VAR:-default}` | the same, or `default` where it is not set or empty (as in a shell) |
//! | `${secret:VAR}` | the same, never printed |
//! | `${file:/run/secrets/x}` | the file's text without its last line break, never printed |
//! | `$${` | `${` |

use std::path::Path;

use super::paths;

/// A secret file is not read beyond this.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A value with everything filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filled {
    pub text: String,
    /// it was nothing but one reference: then it may stand for a number or a boolean
    pub only_reference: bool,
    pub secrets: Vec<String>,
}

/// What could not be filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfilled {
    /// the reference as it stands in the file, from `${` to `}`
    pub reference: String,
    pub message: String,
    pub hint: String,
}

/// Fills in `text`; all that is wrong with it is returned at once.
pub fn fill(text: &str, env: &dyn Fn(&str) -> Option<String>, dir: &Path) -> Result<Filled, Vec<Unfilled>> {
    let mut filled = Filled::default();
    let mut errors = Vec::new();
    let mut literal = false;
    let mut references = 0;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            filled.text.push_str(escaped);
            filled.text.push_str("${");
            literal = true;
            rest = from.get(2..).unwrap_or("");
            continue;
        }
        filled.text.push_str(before);
        literal |= !before.is_empty();
        references += 1;
        let Some(end) = from.find('}') else {
            errors.push(Unfilled {
                reference: from.to_owned(),
                message: "`${` without its `}`".to_owned(),
                hint: "write `${VAR}`, or `$${` for a literal `${`".to_owned(),
            });
            rest = "";
            break;
        };
        let (reference, after) = from.split_at(end + 1);
        match resolve(reference, env, dir) {
            Ok((value, secret)) => {
                filled.text.push_str(&value);
                if secret && !value.is_empty() {
                    filled.secrets.push(value);
                }
            }
            Err(unfilled) => errors.push(unfilled),
        }
        rest = after;
    }
    filled.text.push_str(rest);
    literal |= !rest.is_empty();
    filled.only_reference = references == 1 && !literal;
    if errors.is_empty() { Ok(filled) } else { Err(errors) }
}

/// The value of one `${…}`, and whether it is secret.
fn resolve(reference: &str, env: &dyn Fn(&str) -> Option<String>, dir: &Path) -> Result<(String, bool), Unfilled> {
    let refuse = |message: String, hint: String| Unfilled { reference: reference.to_owned(), message, hint };
    let inner = reference.strip_prefix("${").and_then(|inner| inner.strip_suffix('}')).unwrap_or(reference);
    if let Some(path) = inner.strip_prefix("file:") {
        return match read_secret(&paths::absolute(dir, path)) {
            Ok(text) => Ok((text, true)),
            Err(error) => Err(refuse(
                format!("cannot read the secret file `{path}`: {error}"),
                "the file must exist and be readable when the pipeline is loaded".to_owned(),
            )),
        };
    }
    let (name, secret) = match inner.strip_prefix("secret:") {
        Some(name) => (name, true),
        None => (inner, false),
    };
    let (name, default) = match name.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (name, None),
    };
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(refuse(
            format!("`{reference}` names no environment variable"),
            "write `${VAR}`, `${VAR:-default}`, `${secret:VAR}` or `${file:/path}`; a literal `${` is `$${`".to_owned(),
        ));
    }
    match (env(name), default) {
        (Some(value), Some(_)) if !value.is_empty() => Ok((value, secret)),
        (_, Some(default)) => Ok((default.to_owned(), secret)),
        (Some(value), None) => Ok((value, secret)),
        (None, None) => Err(refuse(
            format!("environment variable `{name}` is not set"),
            if secret {
                format!("set it: `export {name}=…`")
            } else {
                format!("set it (`export {name}=…`) or give a default: `${{{name}:-…}}`")
            },
        )),
    }
}

fn read_secret(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > SECRET_FILE_BYTES_MAX {
        let message = format!("{length} bytes are too many for a secret ({SECRET_FILE_BYTES_MAX} at most)");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    }
    let text = std::fs::read_to_string(path)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill_with(text: &str) -> Result<Filled, Vec<Unfilled>> {
        let env = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "N" => Some("4".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        fill(text, &env, Path::new("/"))
    }

    #[test]
    fn every_form() {
        for (text, expected, only) in [
            ("plain $ and {}", "plain $ and {}", false),
            ("${A}", "alpha", true),
            ("${N}", "4", true),
            ("x-${A}-${N}", "x-alpha-4", false),
            ("${MISSING:-def}", "def", true),
            ("${EMPTY:-def}", "def", true),
            ("${EMPTY}", "", true),
            ("${A:-def}", "alpha", true),
            ("${MISSING:-}", "", true),
            ("$${A}", "${A}", false),
            ("a$${A}${A}", "a${A}alpha", false),
        ] {
            let filled = fill_with(text).unwrap();
            assert_eq!((filled.text.as_str(), filled.only_reference), (expected, only), "{text}");
            assert!(filled.secrets.is_empty());
        }
    }

    #[test]
    fn a_value_is_not_filled_in_again() {
        let env = |_: &str| Some("${B}".to_owned());
        assert_eq!(fill("${A}", &env, Path::new("/")).unwrap().text, "${B}");
    }

    #[test]
    fn secrets_are_told() {
        assert_eq!(fill_with("u:${secret:A}").unwrap().secrets, ["alpha"]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pw"), "s3cret\n").unwrap();
        let filled = fill("${file:pw}", &|_| None, dir.path()).unwrap();
        assert_eq!((filled.text.as_str(), filled.secrets.as_slice()), ("s3cret", &["s3cret".to_owned()][..]));
    }

    #[test]
    fn all_that_is_missing_at_once() {
        let errors = fill_with("${X} ${A} ${secret:Y} ${1} ${open").unwrap_err();
        let references: Vec<&str> = errors.iter().map(|error| error.reference.as_str()).collect();
        assert_eq!(references, ["${X}", "${secret:Y}", "${1}", "${open"]);
    }
}
