//! Values that came from `${secret:…}` or `${file:…}`, after the file has been read: they reach the plugin, the broker and the
//! catalog, and nothing that is shown or kept.
//!
//! A plugin's configuration is shown and kept *sealed*: a marker stands where a secret was.
//!
//! ```text
//!   {"salt":"x-hunter2","pin":4711}     what the plugin gets
//!   {"salt":"x-${secret#1a2b3c4d}","pin":"${secret-value#5e6f7a8b}"}    what checkpoints, histories and answers hold
//! ```
//!
//! The marker holds the first 32 bits of a salted SHA-256 of the value: enough for a start to tell whether a secret is still
//! the same, and to fill it in again from the pipeline file. Secrets are found by their value, wherever it stands.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::diagnostic;

/// What stands in the place of a part of a string.
const IN_TEXT: &str = "${secret#";
/// What stands in the place of a number or a boolean.
const WHOLE_VALUE: &str = "${secret-value#";
/// Of the digest, in hex.
const DIGEST_CHARS: usize = 8;
/// Shorter values are in every other text by chance: messages keep them.
const REDACTED_CHARS_MIN: usize = 4;

/// The secrets of one pipeline file.
#[derive(Clone, Default)]
pub struct Secrets {
    /// the longest first: one may be a part of another
    known: Arc<[Known]>,
}

struct Known {
    value: String,
    digest: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.known.len())
    }
}

impl Secrets {
    /// `pipeline` is the salt: it is the same at the next start.
    pub fn new(pipeline: &str, values: &[String]) -> Self {
        let known = values.iter().filter(|value| !value.is_empty()).map(|value| {
            let salted = Sha256::new().chain_update(pipeline).chain_update([0]).chain_update(value).finalize();
            let digest = salted.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            Known { value: value.clone(), digest: digest.chars().take(DIGEST_CHARS).collect() }
        });
        let mut known: Vec<Known> = known.collect();
        known.sort_by(|a, b| b.value.len().cmp(&a.value.len()).then_with(|| a.value.cmp(&b.value)));
        known.dedup_by(|a, b| a.value == b.value);
        Self { known: known.into() }
    }

    /// A configuration as it may be shown and kept. Without secrets in it, it stays what it is.
    pub fn seal(&self, config: &str) -> String {
        if self.known.is_empty() {
            return config.to_owned();
        }
        match serde_json::from_str::<Value>(config) {
            Ok(mut value) => match self.seal_value(&mut value) {
                true => value.to_string(),
                false => config.to_owned(),
            },
            Err(_) => self.seal_text(config),
        }
    }

    /// Whether there was one.
    fn seal_value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                let sealed = self.seal_text(text);
                std::mem::replace(text, sealed.clone()) != sealed
            }
            Value::Array(items) => items.iter_mut().fold(false, |found, item| self.seal_value(item) | found),
            Value::Object(fields) => fields.values_mut().fold(false, |found, field| self.seal_value(field) | found),
            Value::Number(_) | Value::Bool(_) => {
                let same = |known: &&Known| serde_json::from_str::<Value>(&known.value).is_ok_and(|v| v == *value);
                let Some(known) = self.known.iter().find(same) else { return false };
                *value = Value::String(format!("{WHOLE_VALUE}{}}}", known.digest));
                true
            }
            Value::Null => false,
        }
    }

    /// In one pass: a secret may look like a part of a marker.
    fn seal_text(&self, text: &str) -> String {
        let (mut sealed, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(first) = rest.chars().next() {
            let here = self.known.iter().find_map(|known| Some((known, rest.strip_prefix(known.value.as_str())?)));
            if let Some((known, after)) = here {
                sealed.push_str(&format!("{IN_TEXT}{}}}", known.digest));
                rest = after;
            } else {
                sealed.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
        sealed
    }

    /// The configuration with its secrets filled in again. An error if the pipeline file does not give one of them any more.
    pub fn unseal(&self, config: &str) -> Result<String, String> {
        let unsealed = self.unseal_known(config);
        match has_secrets(&unsealed) {
            false => Ok(unsealed),
            true => Err("the pipeline file no longer gives a secret of its configuration".to_owned()),
        }
    }

    /// The same; markers of secrets that the pipeline file does not give any more stay.
    pub fn unseal_known(&self, config: &str) -> String {
        match serde_json::from_str::<Value>(config) {
            Ok(mut value) => match self.unseal_value(&mut value) {
                true => value.to_string(),
                false => config.to_owned(),
            },
            Err(_) => self.unseal_text(config),
        }
    }

    fn unseal_value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                let whole = text.strip_prefix(WHOLE_VALUE).and_then(|rest| rest.strip_suffix('}'));
                let known = whole.and_then(|digest| self.known.iter().find(|known| known.digest == digest));
                if let Some(whole) = known.and_then(|known| serde_json::from_str(&known.value).ok()) {
                    *value = whole;
                    return true;
                }
                let unsealed = self.unseal_text(text);
                std::mem::replace(text, unsealed.clone()) != unsealed
            }
            Value::Array(items) => items.iter_mut().fold(false, |found, item| self.unseal_value(item) | found),
            Value::Object(fields) => fields.values_mut().fold(false, |found, field| self.unseal_value(field) | found),
            Value::Number(_) | Value::Bool(_) | Value::Null => false,
        }
    }

    fn unseal_text(&self, text: &str) -> String {
        let (mut unsealed, mut rest) = (String::with_capacity(text.len()), text);
        while let Some((before, after)) = rest.split_once(IN_TEXT) {
            unsealed.push_str(before);
            let known = self.known.iter().find_map(|known| {
                let after = after.strip_prefix(known.digest.as_str())?.strip_prefix('}')?;
                Some((known, after))
            });
            match known {
                Some((known, after)) => {
                    unsealed.push_str(&known.value);
                    rest = after;
                }
                None => {
                    unsealed.push_str(IN_TEXT);
                    rest = after;
                }
            }
        }
        unsealed.push_str(rest);
        unsealed
    }

    /// A message that may be shown and kept: plugins say what they like.
    pub fn redact(&self, text: &str) -> String {
        let values = self.known.iter().map(|known| known.value.clone());
        diagnostic::redact(text, &redactable(values))
    }
}

/// Those that are taken out of messages, in each form that they can have there.
pub fn redactable(values: impl Iterator<Item = String>) -> Vec<String> {
    let long = values.filter(|value| value.chars().count() >= REDACTED_CHARS_MIN);
    let mut forms: Vec<String> = long.flat_map(|value| [value.escape_debug().to_string(), value]).collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms.dedup();
    forms
}

/// Whether a sealed configuration has a marker in it.
pub fn has_secrets(config: &str) -> bool {
    [IN_TEXT, WHOLE_VALUE].iter().any(|marker| {
        config.match_indices(marker).any(|(at, _)| {
            let digest = config.get(at + marker.len()..).and_then(|rest| rest.get(..=DIGEST_CHARS));
            let digest = digest.and_then(|digest| digest.strip_suffix('}'));
            digest.is_some_and(|digest| digest.bytes().all(|b| b.is_ascii_hexdigit()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        Secrets::new("p", &values.iter().map(|&v| v.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_sealed_configuration_holds_no_secret_and_is_filled_in_again() {
        // one is a part of another, one looks like a part of a marker, two are no strings, one has to be escaped
        let all = secrets(&["hunter2", "hunter2-long", "secret", "4711", "true", "a\"b\\c\n", "0"]);
        for config in [
            r#"{"a":"hunter2","b":["x-hunter2-long-y",{"c":"secret${secret#00000000"}],"n":null}"#,
            r#"{"flag":true,"other":false,"pin":4711,"text":"4711","zero":0}"#,
            r#"{"quoted":"<a\"b\\c\n>"}"#,
            "count() FILTER (x = 'hunter2')",
        ] {
            let sealed = all.seal(config);
            for value in ["hunter2", "4711", ":true", "a\\\"b"] {
                assert!(!sealed.contains(value), "{value} is in {sealed}");
            }
            assert_eq!(all.unseal(&sealed).unwrap(), config);
            assert_eq!(all.seal(config), sealed);
        }
    }

    #[test]
    fn without_secrets_nothing_changes() {
        let text = r#"{ "b": 1, "a": "x" }"#;
        assert_eq!(secrets(&[]).seal(text), text);
        assert_eq!(secrets(&["hunter2"]).seal(text), text);
        assert_eq!(secrets(&["hunter2"]).unseal(text).unwrap(), text);
    }

    #[test]
    fn another_secret_is_another_configuration_and_fills_nothing_in() {
        let (old, new) = (secrets(&["hunter2"]), secrets(&["hunter3"]));
        let sealed = old.seal(r#"{"salt":"hunter2"}"#);
        assert_ne!(sealed, new.seal(r#"{"salt":"hunter3"}"#));
        assert!(new.unseal(&sealed).is_err());
        assert_eq!(new.unseal_known(&sealed), sealed);
        // nor does the same one in another pipeline look the same
        assert_ne!(sealed, Secrets::new("q", &["hunter2".to_owned()]).seal(r#"{"salt":"hunter2"}"#));
    }

    #[test]
    fn messages_lose_them_in_each_form() {
        let all = secrets(&["a\"bcd", "xy"]);
        assert_eq!(all.redact("a\"bcd, \"a\\\"bcd\", xy"), "[redacted], \"[redacted]\", xy");
        assert_eq!(format!("{all:?}"), "Secrets(2)");
    }
}
