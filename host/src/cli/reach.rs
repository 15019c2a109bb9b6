//! From PIPELINE, a file or a name, to the run that answers for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Failure;
use super::open::load;
use super::run::io_runtime;
use crate::api::address;
use crate::api::model::{self, PipelineStatus};
use crate::api::token::Token;

/// The folders that are searched for a pipeline of a name.
const FOLDERS: [&str; 2] = [".", "pipelines"];

#[derive(Debug, clap::Args)]
pub struct Reach {
    /// a pipeline file, or a pipeline's name (looked for in `.` and `pipelines`)
    pub pipeline: String,
    /// where the run answers, if it is elsewhere: its token is read from MILLRACE_API_TOKEN (or MILLRACE_API_TOKEN_FILE)
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
}

/// A run that has said who it is.
pub struct Run {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
    token: Option<Token>,
    pub status: PipelineStatus,
}

impl Reach {
    /// All pipelines that run of the files in the folders that are searched.
    pub fn all() -> Vec<Run> {
        let files = FOLDERS.iter().flat_map(|folder| tomls(folder));
        let mut found: Vec<String> = files.filter_map(|file| names(&file)).collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|pipeline| Self { pipeline, api: None }.find().ok()).collect()
    }

    /// `PIPELINE` as it was given, with `--api`, for a command that goes on from here.
    pub fn again(&self) -> String {
        let api = self.api.as_ref().map_or(String::new(), |api| format!(" --api {api}"));
        format!("{}{api}", self.pipeline)
    }

    pub fn find(&self) -> Result<Run, Failure> {
        let runtime = io_runtime()?;
        let token = Token::from_environment(|name| std::env::var(name).ok()).map_err(Failure::Usage)?;
        let client = reqwest::Client::builder()
            .timeout(std::time::Duration::from_secs(10))
            .build()
            .map_err(|e| Failure::Other(e.into()))?;
        let (name, address) = match &self.api {
            Some(_) => (self.name()?, None),
            None => {
                let loaded = load(&self.file()?)?;
                let name = loaded.pipeline.name.clone();
                let found = runtime.block_on(address::find(&loaded.pipeline.checkpoint.location, &name));
                let found = found.map_err(|e| Failure::Other(anyhow::anyhow!(e)))?.ok_or_else(|| {
                    Failure::Other(anyhow::anyhow!(
                        "pipeline `{name}` is not running (or with `--ui none`): its checkpoint location names no \
                         address\nhint: `millrace run {}`, or `--api URL` if it runs elsewhere",
                        loaded.pipeline.file.display()
                    ))
                })?;
                (name, Some(found))
            }
        };
        let url = address.as_ref().map(|a| a.url.clone()).or_else(|| self.api.clone()).unwrap_or_default();
        let url = format!("{}/api/v1/pipelines/{name}", url.trim_end_matches('/'));
        let status: Result<PipelineStatus, _> = runtime.block_on(get(&client, &url, token.as_ref()));
        let gone = "the run that wrote its address beside the checkpoints was killed, or is on another machine";
        let status = match (status, &address) {
            (Ok(status), Some(address)) if !address.is_of(&status) => {
                return Err(Failure::Other(anyhow::anyhow!("another run answers at {}: {gone}", address.url)));
            }
            (Ok(status), _) => status,
            (Err(error), Some(_)) => return Err(Failure::Other(error.context(gone))),
            (Err(error), None) => return Err(Failure::Other(error)),
        };
        Ok(Run { runtime, client, url, token, status })
    }

    fn name(&self) -> Result<String, Failure> {
        if is_file(&self.pipeline) {
            Ok(load(Path::new(&self.pipeline))?.pipeline.name)
        } else {
            Ok(self.pipeline.clone())
        }
    }

    /// The pipeline file that is meant.
    pub fn file(&self) -> Result<PathBuf, Failure> {
        if is_file(&self.pipeline) {
            return Ok(PathBuf::from(&self.pipeline));
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for folder in FOLDERS {
            files.extend(tomls(folder).into_iter().filter(|p| names(p).is_some_and(|name| name == self.pipeline)));
        }
        match files.as_slice() {
            [file] => Ok(file.clone()),
            [] => Err(Failure::Usage(format!(
                "no file in `.` or `pipelines` says `name = \"{}\"` in [pipeline]\nhint: give the file, or `--api URL`",
                self.pipeline
            ))),
            many => {
                let many: Vec<String> = many.iter().map(|f| f.display().to_string()).collect();
                Err(Failure::Usage(format!("`{}` is the name of several: {}", self.pipeline, many.join(", "))))
            }
        }
    }
}

fn tomls(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    entries.filter(|p| p.extension().is_some_and(|e| e == "toml")).collect()
}

fn is_file(text: &str) -> bool {
    text.ends_with(".toml") || text.contains('/')
}

/// The pipeline's name that a file gives, if it is a pipeline file.
fn names(file: &Path) -> Option<String> {
    let table: toml::Table = std::fs::read_to_string(file).ok()?.parse().ok()?;
    Some(table.get("pipeline")?.get("name")?.as_str()?.to_owned())
}

impl Run {
    /// Asks for what is below the pipeline's own path.
    pub fn get<T: DeserializeOwned>(&self, below: &str) -> anyhow::Result<T> {
        self.runtime.block_on(get(&self.client, &format!("{}{below}", self.url), self.token.as_ref()))
    }

    /// Asks for a change. `patience`: uploads and savepoints take long.
    pub fn post<T: DeserializeOwned>(
        &self,
        below: &str,
        parameters: &[(String, String)],
        content: Option<(&str, Vec<u8>)>,
        patience: Duration,
    ) -> anyhow::Result<T> {
        use anyhow::Context;
        let mut url = url::Url::parse(&format!("{}{below}", self.url)).context("the API's address is no URL")?;
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let mut request = self.client.post(url.clone()).timeout(patience).header("X-Millrace", "1");
        if let Some(user) = user() {
            request = request.header("X-Millrace-User", user);
        }
        if let Some((content_type, bytes)) = content {
            request = request.header("Content-Type", content_type).body(bytes);
        }
        // not the query: values of a configuration are nobody else's business
        url.set_query(None);
        self.runtime.block_on(answer(request, url.as_str(), self.token.as_ref()))
    }
}

/// `jane@laptop`, as far as the environment says it.
fn user() -> Option<String> {
    let user = std::env::var("USER").ok()?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let name = host.map_or(user.clone(), |host| format!("{user}@{}", host.trim()));
    let name: String = name.chars().filter(char::is_ascii_graphic).take(64).collect();
    (!name.is_empty()).then_some(name)
}

async fn get<T: DeserializeOwned>(client: &reqwest::Client, url: &str, token: Option<&Token>) -> anyhow::Result<T> {
    answer(client.get(url), url, token).await
}

async fn answer<T: DeserializeOwned>(
    mut request: reqwest::RequestBuilder,
    url: &str,
    token: Option<&Token>,
) -> anyhow::Result<T> {
    use anyhow::Context;
    if let Some(token) = token {
        request = request.header("Authorization", token.header());
    }
    let response = request.send().await.with_context(|| format!("nobody answers at {url}"))?;
    let status = response.status();
    let bytes = response.bytes().await.with_context(|| format!("{url} breaks off"))?;
    if !status.is_success() {
        let said = serde_json::from_slice::<model::Failure>(&bytes).map_or(String::new(), |f| format!(": {}", f.error));
        anyhow::bail!("{url} answers {status}{said}");
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{url} answers something else: is it Millrace?"))
}
