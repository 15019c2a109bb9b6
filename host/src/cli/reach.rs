//! From PIPELINE, a file or a name, to the run that answers for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
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

    fn file(&self) -> Result<PathBuf, Failure> {
        if is_file(&self.pipeline) {
            return Ok(PathBuf::from(&self.pipeline));
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for folder in FOLDERS {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let tomls =
                entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "toml"));
            files.extend(tomls.filter(|p| names(p).is_some_and(|name| name == self.pipeline)));
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

/// The runs of all pipeline files that are found here.
pub fn all_running() -> Vec<Run> {
    let mut runs = Vec::new();
    for folder in FOLDERS {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "toml") && names(file).is_some()) {
            // one that does not run, or is no right pipeline file, is none
            let reach = Reach { pipeline: format!("{}/{}", folder, file_name(file)), api: None };
            runs.extend(reach.find().ok());
        }
    }
    runs
}

fn file_name(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
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
}

/// What is sent with a request that changes something.
pub enum Body {
    None,
    Wasm(Vec<u8>),
    Json(serde_json::Value),
}

impl Run {
    pub fn name(&self) -> &str {
        &self.status.name
    }

    /// Asks for a change below the pipeline's own path. `patience`: until it is accepted.
    pub fn post<T: DeserializeOwned>(&self, below: &str, body: Body, patience: Duration) -> anyhow::Result<T> {
        let url = format!("{}{below}", self.url);
        let mut request = self.client.post(&url).timeout(patience).header("X-Millrace-User", user());
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.header());
        }
        request = match body {
            Body::None => request,
            Body::Wasm(bytes) => request.header("Content-Type", "application/wasm").body(bytes),
            Body::Json(value) => request.header("Content-Type", "application/json").body(value.to_string()),
        };
        self.runtime.block_on(async {
            let response = request.send().await.with_context(|| format!("nobody answers at {url}"))?;
            answer(&url, response).await
        })
    }
}

/// As the log of the run names who asked.
fn user() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    user.chars().filter(char::is_ascii_graphic).collect()
}

async fn get<T: DeserializeOwned>(client: &reqwest::Client, url: &str, token: Option<&Token>) -> anyhow::Result<T> {
    let mut request = client.get(url);
    if let Some(token) = token {
        request = request.header("Authorization", token.header());
    }
    let response = request.send().await.with_context(|| format!("nobody answers at {url}"))?;
    answer(url, response).await
}

async fn answer<T: DeserializeOwned>(url: &str, response: reqwest::Response) -> anyhow::Result<T> {
    let status = response.status();
    let bytes = response.bytes().await.with_context(|| format!("{url} breaks off"))?;
    if !status.is_success() {
        let said = serde_json::from_slice::<model::Failure>(&bytes).map_or(String::new(), |f| f.error);
        anyhow::bail!("{}", if said.is_empty() { format!("{url} answers {status}") } else { said });
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{url} answers something else: is it Millrace?"))
}
