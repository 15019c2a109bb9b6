//! The REST catalog's way: requirements and updates in one POST, as the Iceberg REST specification has it.
//!
//! Speaks to the server as the iceberg crate does: configuration (server defaults < own properties < server overrides),
//! `prefix`, `token`, `credential` (OAuth 2 client credentials, exchanged again when the server does not take the token any
//! more), `header.*`. The crate does not show its own client.

use std::collections::HashMap;

use anyhow::{Context, bail};
use async_trait::async_trait;
use iceberg::TableIdent;
use iceberg::table::Table;
use iceberg_catalog_rest::CommitTableRequest;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Submit, Submitted};
use crate::catalog::{own_properties, rest_client};
use crate::sink::SinkError;
use crate::sink::iceberg::snapshot::Change;
use crate::spec::model::CatalogSpec;

/// Characters of a server's answer that are shown.
const ANSWER_CHARS_MAX: usize = 500;
/// Parts of a namespace's name are joined by it.
const SEPARATOR: &str = "\u{1f}";

pub struct RestSubmit {
    http: Client,
    catalog: String,
    properties: HashMap<String, String>,
    token: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    defaults: HashMap<String, String>,
    #[serde(default)]
    overrides: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

impl RestSubmit {
    pub async fn open(spec: &CatalogSpec) -> anyhow::Result<Self> {
        let mut properties = own_properties(spec);
        properties.insert("uri".to_owned(), spec.uri.clone());
        if !spec.warehouse.is_empty() {
            properties.insert("warehouse".to_owned(), spec.warehouse.clone());
        }
        let token = Mutex::new(properties.get("token").cloned());
        let mut submit = Self { http: rest_client()?, catalog: spec.name.clone(), properties, token };
        let mut config = submit.http.get(submit.url(&["v1", "config"])?);
        if let Some(warehouse) = submit.properties.get("warehouse") {
            config = config.query(&[("warehouse", warehouse)]);
        }
        let answer = submit.authorized(config).await?.send().await?;
        if !answer.status().is_success() {
            bail!("its configuration: {}", said(answer.status(), &answer.text().await.unwrap_or_default()));
        }
        let Config { defaults, overrides } = answer.json().await.context("its configuration")?;
        let own = std::mem::replace(&mut submit.properties, defaults);
        submit.properties.extend(own);
        submit.properties.extend(overrides);
        if let Some(token) = submit.properties.get("token") {
            submit.token = Mutex::new(Some(token.clone()));
        }
        Ok(submit)
    }

    fn url(&self, parts: &[&str]) -> anyhow::Result<Url> {
        let uri = self.properties.get("uri").map(String::as_str).unwrap_or_default();
        let mut url = Url::parse(uri).with_context(|| format!("`{uri}`"))?;
        // each part is percent-encoded
        let Ok(mut segments) = url.path_segments_mut() else { bail!("`{uri}` cannot be the base of an address") };
        segments.pop_if_empty().extend(parts);
        drop(segments);
        Ok(url)
    }

    fn table_url(&self, table: &TableIdent) -> anyhow::Result<Url> {
        let namespace = table.namespace().clone().inner().join(SEPARATOR);
        let mut parts = vec!["v1"];
        parts.extend(self.properties.get("prefix").iter().flat_map(|prefix| prefix.split('/')));
        parts.extend(["namespaces", &namespace, "tables", table.name()]);
        self.url(&parts)
    }

    /// With the configured headers and the token.
    async fn authorized(&self, mut request: RequestBuilder) -> anyhow::Result<RequestBuilder> {
        let headers = self.properties.iter().filter_map(|(key, value)| Some((key.strip_prefix("header.")?, value)));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut token = self.token.lock().await;
        if token.is_none() {
            *token = self.exchange().await?;
        }
        Ok(match &*token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// The credential for a token; none: there is no credential.
    async fn exchange(&self) -> anyhow::Result<Option<String>> {
        let Some(credential) = self.properties.get("credential") else { return Ok(None) };
        let url = match self.properties.get("oauth2-server-uri") {
            Some(uri) => Url::parse(uri).with_context(|| format!("oauth2-server-uri `{uri}`"))?,
            None => self.url(&["v1", "oauth", "tokens"])?,
        };
        let (id, secret) = credential.split_once(':').map_or((None, credential.as_str()), |(id, s)| (Some(id), s));
        let mut form = vec![("grant_type", "client_credentials"), ("client_secret", secret)];
        form.extend(id.map(|id| ("client_id", id)));
        form.push(("scope", self.properties.get("scope").map_or("catalog", String::as_str)));
        let more = ["audience", "resource"].into_iter();
        form.extend(more.filter_map(|key| Some((key, self.properties.get(key)?.as_str()))));
        let answer = self.http.post(url).form(&form).send().await.context("asking for a token")?;
        if !answer.status().is_success() {
            bail!("asking for a token: {}", said(answer.status(), &answer.text().await.unwrap_or_default()));
        }
        let token: Token = answer.json().await.context("asking for a token")?;
        Ok(Some(token.access_token))
    }

    async fn post(&self, table: &TableIdent, change: &Change) -> Submitted {
        let refused = |what: String| SinkError::Fatal(format!("catalog `{}`: {what}", self.catalog));
        let body = CommitTableRequest {
            identifier: Some(table.clone()),
            requirements: change.requirements.clone(),
            updates: change.updates.clone(),
        };
        let url = match self.table_url(table) {
            Ok(url) => url,
            Err(e) => return Submitted::Refused(refused(format!("{e:#}"))),
        };
        let mut exchanged = false;
        loop {
            let request = match self.authorized(self.http.post(url.clone()).json(&body)).await {
                Ok(request) => request,
                // nothing has been sent
                Err(e) => {
                    return Submitted::Refused(SinkError::Transient(format!("catalog `{}`: {e:#}", self.catalog)));
                }
            };
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(e) if e.is_connect() || e.is_builder() => {
                    return Submitted::Refused(SinkError::Transient(format!("catalog `{}`: {e}", self.catalog)));
                }
                Err(e) => return Submitted::Perhaps(format!("no answer: {e}")),
            };
            let status = answer.status();
            if status == StatusCode::OK {
                // what it says is not needed: whoever asked looks for himself
                return Submitted::Yes;
            }
            let text = answer.text().await.unwrap_or_default();
            let words = said(status, &text);
            return match status {
                StatusCode::UNAUTHORIZED if !exchanged && self.properties.contains_key("credential") => {
                    exchanged = true;
                    *self.token.lock().await = None;
                    continue;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let hint =
                        "hint: is `token` or `credential` among its properties right, and may it change the table?";
                    Submitted::Refused(refused(format!("{words}\n{hint}")))
                }
                StatusCode::CONFLICT => Submitted::Conflict(words),
                StatusCode::TOO_MANY_REQUESTS => Submitted::Refused(SinkError::Transient(words)),
                status if status.is_client_error() => Submitted::Refused(refused(words)),
                _ => Submitted::Perhaps(words),
            };
        }
    }
}

fn said(status: StatusCode, text: &str) -> String {
    #[derive(Deserialize)]
    struct Answer {
        error: Said,
    }
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let message = serde_json::from_str::<Answer>(text).map_or_else(|_| text.to_owned(), |answer| answer.error.message);
    let message: String = message.chars().take(ANSWER_CHARS_MAX).collect();
    format!("{status}: {message}")
}

#[async_trait]
impl Submit for RestSubmit {
    async fn submit(&self, base: &Table, change: &Change) -> Submitted {
        self.post(base.identifier(), change).await
    }
}

#[cfg(test)]
mod tests;
