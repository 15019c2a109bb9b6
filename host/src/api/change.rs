//! Requests that change a run: what they say goes to its [`Control`], and who asked, for what, with what result, to the
//! log. The log holds neither the token nor values of a configuration.

use std::net::SocketAddr;

use millrace_core::swap::SwapRecord;
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::http::{Request, Response};
use super::model::{Savepoint, Stopping};
use super::parameters;
use super::routes::{JSON, json, refusal};
use crate::runtime::control::{Control, Refused};

const WASM: &str = "application/wasm";
/// Characters of the name that a client gives itself.
const USER_MAX: usize = 64;

/// Who asks.
pub struct Caller {
    pipeline: String,
    /// as the history names it: `jane@laptop (local)`
    by: String,
    peer: SocketAddr,
}

impl Caller {
    pub fn of(request: &Request, has_token: bool, pipeline: &str) -> Result<Self, Response> {
        let how = if has_token { "token" } else { "local" };
        let by = match &request.user {
            None => how.to_owned(),
            Some(user) => {
                let printable = user.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
                let user = std::str::from_utf8(user).ok().map(str::trim);
                let user = user.filter(|user| printable && !user.is_empty() && user.len() <= USER_MAX);
                let user = user.ok_or_else(|| {
                    refusal(400, &format!("X-Millrace-User is at most {USER_MAX} printable ASCII characters"))
                })?;
                format!("{user} ({how})")
            }
        };
        Ok(Self { pipeline: pipeline.to_owned(), by, peer: request.peer })
    }

    fn log(&self, what: &str, operator: Option<&str>, digest: Option<&str>, result: &str) {
        let Self { pipeline, by, peer } = self;
        let (operator, digest) = (operator.unwrap_or("-"), digest.unwrap_or("-"));
        info!(pipeline, by, %peer, what, operator, digest, result, "change");
    }

    fn refused(&self, what: &str, operator: Option<&str>, digest: Option<&str>, why: &Refused) -> Response {
        let (status, result) = match why {
            Refused::Unknown(_) => (404, "unknown"),
            Refused::Conflict(_) => (409, "conflict"),
            Refused::Invalid(_) => (422, "refused"),
        };
        self.log(what, operator, digest, result);
        refusal(status, why.message())
    }

    fn accepted(&self, what: &str, digest: Option<&str>, record: &SwapRecord) -> Response {
        self.log(what, Some(&record.operator), digest, &format!("accepted as swap {}", record.id));
        let mut response = json(202, record);
        response.headers.push(("Location", format!("/api/v1/pipelines/{}/swaps/{}", self.pipeline, record.id)));
        response
    }
}

pub fn swap(control: &dyn Control, caller: &Caller, operator: &str, request: &Request) -> Response {
    if request.has_body() && !is(request, WASM) {
        return refusal(415, &format!("the body is a plugin, and its Content-Type `{WASM}`"));
    }
    let mut wanted = match parameters::swap(operator, request.query.as_deref().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(message) => return refusal(400, &message),
    };
    if !request.has_body() && wanted.config.is_empty() {
        return refusal(400, "expected is a plugin as the body, or `config.KEY=VALUE` for the one that runs");
    }
    wanted.bytes = request.has_body().then(|| request.body.clone());
    wanted.by.clone_from(&caller.by);
    let digest = request.has_body().then(|| crate::plugin::artifact::hex(&Sha256::digest(&request.body)));
    match control.swap(wanted) {
        Ok(record) => caller.accepted("swap", digest.as_deref(), &record),
        Err(why) => caller.refused("swap", Some(operator), digest.as_deref(), &why),
    }
}

pub fn rollback(control: &dyn Control, caller: &Caller, operator: &str, request: &Request) -> Response {
    if request.has_body() {
        return refusal(400, "no body is expected here");
    }
    let drain = match parameters::drain(request.query.as_deref().unwrap_or_default()) {
        Ok(drain) => drain,
        Err(message) => return refusal(400, &message),
    };
    match control.rollback(operator, drain, &caller.by) {
        Ok(record) => caller.accepted("rollback", Some(&record.to.sha256), &record),
        Err(why) => caller.refused("rollback", Some(operator), None, &why),
    }
}

pub fn stop(control: &dyn Control, caller: &Caller, request: &Request) -> Response {
    if request.has_body() {
        return refusal(400, "no body is expected here");
    }
    let drain = match parameters::drain(request.query.as_deref().unwrap_or_default()) {
        Ok(drain) => drain,
        Err(message) => return refusal(400, &message),
    };
    match control.stop(drain, &caller.by) {
        Ok(()) => {
            caller.log(if drain { "stop --drain" } else { "stop" }, None, None, "accepted");
            json(202, &Stopping { pipeline: caller.pipeline.clone() })
        }
        Err(why) => caller.refused("stop", None, None, &why),
    }
}

pub fn savepoint(control: &dyn Control, caller: &Caller, request: &Request) -> Response {
    if !is(request, JSON) {
        return refusal(415, &format!("the body is JSON, and its Content-Type `{JSON}`"));
    }
    let folder = match parameters::savepoint(&request.body) {
        Ok(folder) => folder,
        Err(message) => return refusal(400, &message),
    };
    match control.savepoint(&folder, &caller.by) {
        Ok(checkpoint) => {
            caller.log("savepoint", None, None, &format!("checkpoint {checkpoint}"));
            json(201, &Savepoint { checkpoint, folder })
        }
        Err(why) => caller.refused("savepoint", None, None, &why),
    }
}

/// Parameters of the type (`; charset=…`) say nothing here.
fn is(request: &Request, content_type: &str) -> bool {
    let given = request.content_type.as_deref().and_then(|given| given.split(';').next());
    given.is_some_and(|given| given.trim().eq_ignore_ascii_case(content_type))
}
