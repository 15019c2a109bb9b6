//! From a [`Location`] of the pipeline file to an object store and the prefix below which everything is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

use super::durable::DurableFolder;
use super::error::{CheckpointError, Class, Result, class_of_io, one_line};
use crate::spec::model::Location;

const REQUEST_TIMEOUT: &str = "60s";
/// Retries inside one request of the store's client; ours come on top, with the operation's meaning in mind.
const CLIENT_RETRIES_MAX: usize = 3;
const CLIENT_RETRY_TIMEOUT_S: u64 = 20;

pub(super) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    pub root: Path,
    /// how the location is named in messages
    pub shown: String,
}

pub(super) fn open(location: &Location) -> Result<Opened> {
    match location {
        Location::Local(folder) => open_local(folder),
        Location::ObjectStore { url, properties } => open_s3(url, properties),
    }
}

/// Files are synced, and so are the folders that name them: what was answered `Ok` survives a power cut.
fn open_local(folder: &std::path::Path) -> Result<Opened> {
    let shown = folder.display().to_string();
    std::fs::create_dir_all(folder).map_err(|e| {
        let (location, doing) = (shown.clone(), "making the folder".to_owned());
        match class_of_io(e.kind()) {
            Class::Denied => CheckpointError::Denied { location, doing, why: e.to_string() },
            Class::NoSpace => CheckpointError::NoSpace { location, doing, why: e.to_string() },
            _ => CheckpointError::Unusable { location, doing, why: e.to_string() },
        }
    })?;
    let store = DurableFolder::new(folder)
        .map_err(|e| CheckpointError::BadLocation { given: shown.clone(), why: one_line(&e) })?;
    Ok(Opened { store: Arc::new(store), root: Path::default(), shown })
}

/// `s3://bucket/prefix`. The environment (AWS_*) comes first, `properties` win over it; they are named as the Iceberg
/// catalogs name them (`s3.endpoint`) or as the store does (`aws_endpoint`).
fn open_s3(given: &str, properties: &BTreeMap<String, String>) -> Result<Opened> {
    let bad = |why: String| CheckpointError::BadLocation { given: given.to_owned(), why };
    let url = url::Url::parse(given).map_err(|e| bad(format!("not a URL: {e}")))?;
    if !matches!(url.scheme(), "s3" | "s3a") {
        return Err(bad(format!("scheme `{}` is not supported. hint: a folder, or s3://bucket/prefix", url.scheme())));
    }
    let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| bad("there is no bucket in it".to_owned()))?;
    let root = Path::from_url_path(url.path()).map_err(|e| bad(one_line(&e)))?;
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .with_retry(RetryConfig {
            max_retries: CLIENT_RETRIES_MAX,
            retry_timeout: Duration::from_secs(CLIENT_RETRY_TIMEOUT_S),
            ..RetryConfig::default()
        });
    for (key, value) in properties {
        let (key, value) = s3_setting(key, value).ok_or_else(|| {
            bad(format!(
                "property `{key}` is not known. hint: s3.endpoint, s3.region, s3.access-key-id, s3.secret-access-key, \
                 s3.session-token, s3.path-style-access"
            ))
        })?;
        builder = builder.with_config(key, value);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if endpoint.is_some_and(|e| e.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let store = builder.build().map_err(|e| bad(one_line(&e)))?;
    Ok(Opened { store: Arc::new(store), root, shown: given.to_owned() })
}

fn s3_setting(key: &str, value: &str) -> Option<(AmazonS3ConfigKey, String)> {
    let known = match key {
        // what AWS_ENDPOINT_URL_S3 sets, too, and what goes before AWS_ENDPOINT
        "s3.endpoint" => AmazonS3ConfigKey::S3Endpoint,
        "s3.region" | "client.region" => AmazonS3ConfigKey::Region,
        "s3.access-key-id" => AmazonS3ConfigKey::AccessKeyId,
        "s3.secret-access-key" => AmazonS3ConfigKey::SecretAccessKey,
        "s3.session-token" => AmazonS3ConfigKey::Token,
        "s3.path-style-access" => {
            let path_style = value.eq_ignore_ascii_case("true");
            return Some((AmazonS3ConfigKey::VirtualHostedStyleRequest, (!path_style).to_string()));
        }
        other => other.parse().ok()?,
    };
    Some((known, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(url: &str, properties: &[(&str, &str)]) -> Result<Opened> {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        open(&Location::ObjectStore { url: url.to_owned(), properties })
    }

    #[test]
    fn s3_locations() {
        let keys =
            [("s3.endpoint", "http://127.0.0.1:1"), ("s3.region", "us-east-1"), ("s3.path-style-access", "true")];
        assert_eq!(s3("s3://bucket/a/b/", &keys).map(|o| o.root.to_string()).ok(), Some("a/b".to_owned()));
        assert_eq!(s3("s3://bucket", &keys).map(|o| o.root.to_string()).ok(), Some(String::new()));
        let wrong = s3("s3://bucket/a", &[("s3.end-point", "x")]).map(|_| ()).expect_err("unknown key").to_string();
        assert!(wrong.contains("`s3.end-point`") && wrong.contains("s3.endpoint"), "{wrong}");
        assert!(matches!(s3("gs://bucket/a", &[]), Err(CheckpointError::BadLocation { .. })));
    }
}
