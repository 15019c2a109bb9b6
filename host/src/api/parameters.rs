//! What a request that changes a run says in its query and body. Everything that is not understood is refused, and the
//! message says what is expected.

use std::time::Duration;

use url::form_urlencoded;

use super::model::SavepointRequest;
use crate::runtime::control::{Shadow, SwapRequest};
use crate::spec::parse_duration_ms;

/// Characters of a savepoint's folder.
const FOLDER_MAX: usize = 4_096;

const EXPECTED: &str = "expected are sha256, config.KEY=VALUE, replace=true, drain=true, shadow=10m, promote_if_equal=true, \
     tolerance=0.001";

/// A swap of `operator`, without the bytes and who asks.
pub fn swap(operator: &str, query: &str) -> Result<SwapRequest, String> {
    let mut request = SwapRequest { operator: operator.to_owned(), ..SwapRequest::default() };
    let (mut duration, mut promote_if_equal, mut tolerance) = (None, None, None);
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if [&name, &value].iter().any(|text| text.chars().any(|c| c == char::REPLACEMENT_CHARACTER || c == '\0')) {
            return Err("the parameters are no percent-encoded UTF-8".to_owned());
        }
        if seen.iter().any(|s| *s == name) {
            return Err(format!("`{name}` is given twice"));
        }
        seen.push(name.clone().into_owned());
        match name.as_ref() {
            "sha256" => request.sha256 = Some(digest(&value)?),
            "replace" => request.replace = yes_or_no("replace", &value)?,
            "drain" => request.drain = yes_or_no("drain", &value)?,
            "shadow" => duration = Some(shadow(&value)?),
            "promote_if_equal" => promote_if_equal = Some(yes_or_no("promote_if_equal", &value)?),
            "tolerance" => tolerance = Some(relative(&value)?),
            other => match other.strip_prefix("config.") {
                Some(key) if !key.is_empty() => request.config.push((key.to_owned(), value.into_owned())),
                _ => return Err(format!("there is no parameter `{other}`: {EXPECTED}")),
            },
        }
    }
    request.shadow = match duration {
        Some(duration) => Some(Shadow {
            duration,
            promote_if_equal: promote_if_equal.unwrap_or_default(),
            tolerance: tolerance.unwrap_or_default(),
        }),
        None if promote_if_equal.is_some() => return Err("`promote_if_equal` needs `shadow`".to_owned()),
        None if tolerance.is_some() => return Err("`tolerance` needs `shadow`".to_owned()),
        None => None,
    };
    Ok(request)
}

/// The only thing that can be said of a rollback and of a stop: whether windows are ended first.
pub fn drain(query: &str) -> Result<bool, String> {
    let mut drain = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "drain" if drain.is_none() => drain = Some(yes_or_no("drain", &value)?),
            "drain" => return Err("`drain` is given twice".to_owned()),
            other => return Err(format!("there is no parameter `{other}`: expected is drain=true")),
        }
    }
    Ok(drain.unwrap_or_default())
}

pub fn savepoint(body: &[u8]) -> Result<String, String> {
    let expected = "expected is {\"folder\": \"/an/absolute/path\"}";
    let request: SavepointRequest = serde_json::from_slice(body).map_err(|e| format!("{e}; {expected}"))?;
    let folder = request.folder;
    if folder.len() > FOLDER_MAX || folder.chars().any(char::is_control) {
        return Err(format!("the folder is too long, or holds what no path does; {expected}"));
    }
    if !folder.starts_with('/') && !folder.contains("://") {
        return Err(format!("`{folder}` is no absolute path: the pipeline runs in a folder of its own; {expected}"));
    }
    Ok(folder)
}

fn digest(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("`sha256` is no digest: expected are 64 hexadecimal digits".to_owned())
}

fn yes_or_no(name: &str, text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{name}` is `true` or `false`"))
}

fn shadow(text: &str) -> Result<Duration, String> {
    match parse_duration_ms(text) {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("`shadow` is no duration: expected is one such as 10m".to_owned()),
    }
}

fn relative(text: &str) -> Result<f64, String> {
    let tolerance = text.parse().ok().filter(|t: &f64| t.is_finite() && (0.0..=1.0).contains(t));
    tolerance.ok_or_else(|| "`tolerance` is a number from 0 to 1, such as 0.001".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_can_be_said_of_a_swap() {
        let sha256 = "0A".repeat(32);
        let query = format!(
            "sha256={sha256}&config.unique_users=hll&config.a%20b=%3D%26%2B&replace=true&drain=true&shadow=10m&\
             promote_if_equal=true&tolerance=0.001"
        );
        let request = swap("metrics", &query).unwrap();
        assert_eq!(request.operator, "metrics");
        assert_eq!(request.sha256.as_deref(), Some("0a".repeat(32).as_str()));
        let config = [("unique_users", "hll"), ("a b", "=&+")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(request.config, config);
        assert!(request.replace && request.drain);
        let shadow = Shadow { duration: Duration::from_secs(600), promote_if_equal: true, tolerance: 0.001 };
        assert_eq!(request.shadow, Some(shadow));
        assert_eq!(swap("metrics", "").unwrap().shadow, None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (query, says) in [
            ("shadwo=10m", "no parameter `shadwo`"),
            ("config.=1", "no parameter `config.`"),
            ("config.a=1&config.a=2", "twice"),
            ("sha256=abc", "64 hexadecimal"),
            ("replace=yes", "`true` or `false`"),
            ("drain=yes", "`true` or `false`"),
            ("shadow=0s", "no duration"),
            ("shadow=10", "no duration"),
            ("promote_if_equal=true", "needs `shadow`"),
            ("tolerance=0.1", "needs `shadow`"),
            ("shadow=1m&tolerance=nan", "from 0 to 1"),
            ("shadow=1m&tolerance=-1", "from 0 to 1"),
            ("config.a=%ff", "UTF-8"),
        ] {
            let message = swap("metrics", query).unwrap_err();
            assert!(message.contains(says), "{query}: {message}");
        }
        for (query, says) in
            [("drain=1", "`true` or"), ("drain=true&drain=true", "twice"), ("replace=true", "no parameter")]
        {
            assert!(drain(query).unwrap_err().contains(says), "{query}");
        }
        assert_eq!([drain(""), drain("drain=true"), drain("drain=false")], [Ok(false), Ok(true), Ok(false)]);
        for body in ["", "[]", "{}", r#"{"folder": 1}"#, r#"{"folder": "/a", "b": 1}"#, r#"{"folder": "a/b"}"#] {
            assert!(savepoint(body.as_bytes()).unwrap_err().contains("/an/absolute/path"), "{body}");
        }
        assert_eq!(savepoint(br#"{"folder": "/a b"}"#), Ok("/a b".to_owned()));
        assert_eq!(savepoint(br#"{"folder": "s3://b/a"}"#), Ok("s3://b/a".to_owned()));
    }
}
