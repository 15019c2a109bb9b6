//! Requests that change the run: each is checked as a request here, then given to [`Control`], and written into the log with
//! who asked for it and what came of it.

use std::sync::Mutex;
use std::sync::TryLockError;

use serde::Deserialize;
use tracing::{info, warn};

use super::http::{Request, Response};
use super::model::SavepointTaken;
use super::routes::{json, refusal};
use super::{Running, query};
use crate::runtime::control::{Control, Refused, Shadow, SwapRequest};
use crate::spec::parse_duration_ms;

const WASM: &str = "application/wasm";
const JSON: &str = "application/json";
const USER_CHARS_MAX: usize = 64;
const TOLERANCE: f64 = 0.0;

/// One change is asked for at a time.
#[derive(Default)]
pub struct Changes {
    busy: Mutex<()>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavepointRequest {
    folder: String,
}

impl Changes {
    pub fn swap(&self, running: &Running, operator: &str, request: &Request) -> Response {
        let asked = match swap_request(operator, request) {
            Ok(asked) => asked,
            Err(refused) => return refused,
        };
        self.change(running, |control| {
            let (by, sha256) = (asked.by.clone(), asked.sha256.clone());
            let result = control.swap(asked);
            log(&by, "swap", operator, result.as_ref().map(|r| format!("swap {} ({})", r.id, r.to.sha256)));
            if result.is_err()
                && let Some(sha256) = sha256
            {
                info!(target: "change", sha256, "it was said to be");
            }
            result.map(|record| accepted(running, record.id, &record))
        })
    }

    pub fn roll_back(&self, running: &Running, operator: &str, request: &Request) -> Response {
        if let Err(refused) = nothing_with_it(request) {
            return refused;
        }
        let by = who(request);
        self.change(running, |control| {
            let result = control.rollback(operator, &by);
            log(&by, "rollback", operator, result.as_ref().map(|r| format!("swap {}", r.id)));
            result.map(|record| accepted(running, record.id, &record))
        })
    }

    pub fn stop(&self, running: &Running, request: &Request) -> Response {
        if let Err(refused) = nothing_with_it(request) {
            return refused;
        }
        let by = who(request);
        self.change(running, |control| {
            let result = control.stop(&by);
            log(&by, "stop", &running.pipeline.name, result.as_ref().map(|()| "stopping".to_owned()));
            result.map(|()| json(202, &super::model::Health { status: "stopping".to_owned() }))
        })
    }

    pub fn savepoint(&self, running: &Running, request: &Request) -> Response {
        if let Err(refused) = is_of(request, JSON) {
            return refused;
        }
        let asked: SavepointRequest = match serde_json::from_slice(&request.body) {
            Ok(asked) => asked,
            Err(e) => return refusal(400, &format!("expected {{\"folder\": \"/absolute/path\"}}: {e}")),
        };
        if !std::path::Path::new(&asked.folder).is_absolute() || asked.folder.contains('\0') {
            return refusal(422, "`folder` must be an absolute path on the machine of the run");
        }
        let by = who(request);
        self.change(running, |control| {
            let result = control.savepoint(&asked.folder, &by);
            log(&by, "savepoint", &asked.folder, result.as_ref().map(|n| format!("checkpoint {n}")));
            result.map(|checkpoint| json(201, &SavepointTaken { checkpoint, folder: asked.folder.clone() }))
        })
    }

    fn change(&self, running: &Running, change: impl FnOnce(&dyn Control) -> Result<Response, Refused>) -> Response {
        let Some(control) = &running.control else {
            return refusal(409, "this run cannot be changed");
        };
        let _busy = match self.busy.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return refusal(409, "another change is being asked for: try again"),
        };
        change(&**control).unwrap_or_else(|refused| match &refused {
            Refused::Unknown(message) => refusal(404, message),
            Refused::Conflict(message) => refusal(409, message),
            Refused::Invalid(message) => refusal(422, message),
        })
    }
}

/// No page that a browser was tricked into sending here: those say where they come from.
pub fn from_elsewhere(request: &Request) -> Option<Response> {
    let origin = request.origin.as_deref()?;
    let own = request.host.as_deref().is_some_and(|host| origin == format!("http://{host}"));
    (!own).then(|| refusal(403, "a page of another origin may not change anything here"))
}

fn swap_request(operator: &str, request: &Request) -> Result<SwapRequest, Response> {
    let bad = |message: String| refusal(400, &message);
    let mut asked = SwapRequest { operator: operator.to_owned(), by: who(request), ..SwapRequest::default() };
    let (mut duration, mut promote_if_equal, mut tolerance) = (None, false, None);
    for (name, value) in query::parse(&request.query).map_err(bad)? {
        let flag = || match value.as_str() {
            "true" | "" => Ok(true),
            "false" => Ok(false),
            _ => Err(bad(format!("`{name}` is true or false"))),
        };
        match name.as_str() {
            "sha256" => asked.sha256 = Some(value),
            "replace" => asked.replace = flag()?,
            "promote_if_equal" => promote_if_equal = flag()?,
            "shadow" => {
                let ms = parse_duration_ms(&value).filter(|ms| *ms <= SHADOW_MS_MAX);
                duration = Some(ms.ok_or_else(|| bad("`shadow` is a duration such as 10m, a day at most".to_owned()))?);
            }
            "tolerance" => {
                let number = value.parse().ok().filter(|n: &f64| (0.0..=1.0).contains(n));
                tolerance = Some(number.ok_or_else(|| bad("`tolerance` is a number from 0 to 1".to_owned()))?);
            }
            _ => match name.strip_prefix("config.") {
                Some(key) if !key.is_empty() => asked.config.push((key.to_owned(), value)),
                _ => {
                    return Err(bad(format!(
                        "`{name}` is no parameter: there are sha256, config.KEY, replace, shadow, promote_if_equal, tolerance"
                    )));
                }
            },
        }
    }
    if !request.body.is_empty() {
        is_of(request, WASM)?;
        asked.bytes = Some(request.body.clone());
    }
    asked.shadow = match duration {
        Some(ms) => Some(Shadow {
            duration: std::time::Duration::from_millis(ms),
            promote_if_equal,
            tolerance: tolerance.unwrap_or(TOLERANCE),
        }),
        None if promote_if_equal || tolerance.is_some() => {
            return Err(bad("`promote_if_equal` and `tolerance` need `shadow`".to_owned()));
        }
        None => None,
    };
    Ok(asked)
}

const SHADOW_MS_MAX: u64 = 86_400_000;

/// A plugin; everything else is small.
pub fn body_limit(request: &Request) -> u64 {
    match request.path.ends_with("/plugin") && request.method == "POST" {
        true => crate::plugin::limits::ARTIFACT_BYTES_MAX,
        false => 64 << 10,
    }
}

fn is_of(request: &Request, wanted: &str) -> Result<(), Response> {
    let given = request.content_type.as_deref().unwrap_or_default();
    let media = given.split(';').next().unwrap_or_default().trim();
    match media.eq_ignore_ascii_case(wanted) {
        true => Ok(()),
        false => Err(refusal(415, &format!("the body must be {wanted} (Content-Type)"))),
    }
}

fn nothing_with_it(request: &Request) -> Result<(), Response> {
    match request.body.is_empty() && request.query.is_empty() {
        true => Ok(()),
        false => Err(refusal(400, "this takes neither a body nor parameters")),
    }
}

/// As the log and the history name whoever asks: what it says of itself, and where it is.
fn who(request: &Request) -> String {
    let said: String = request.user.as_deref().unwrap_or_default().chars().filter(char::is_ascii_graphic).collect();
    let said: String = said.chars().take(USER_CHARS_MAX).collect();
    let peer = request.peer.map_or_else(|| "somewhere".to_owned(), |peer| peer.ip().to_string());
    match said.is_empty() {
        true => peer,
        false => format!("{said} ({peer})"),
    }
}

fn accepted(running: &Running, id: u64, record: &impl serde::Serialize) -> Response {
    let mut response = json(202, record);
    let location = format!("/api/v1/pipelines/{}/swaps/{id}", running.pipeline.name);
    response.headers.push(("Location", location));
    response
}

fn log(by: &str, what: &str, of: &str, result: Result<String, &Refused>) {
    match result {
        Ok(result) => info!(target: "change", by, what, of, result, "accepted"),
        Err(refused) => warn!(target: "change", by, what, of, reason = refused.message(), "refused"),
    }
}
