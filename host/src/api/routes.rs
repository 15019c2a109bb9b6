//! Which path answers what, and who may ask.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::change::{self, Caller};
use super::http::{Admitted, Handler, Request, Response, Turn};
use super::metrics::Tally;
use super::model::{Failure, Health, OperatorStatus, Pipelines, Swaps};
use super::token::Token;
use super::{Running, explain, metrics};
use crate::plugin::limits::ARTIFACT_BYTES_MAX;

pub const JSON: &str = "application/json";
/// Where no upload is expected.
const BODY_BYTES_MAX: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Root,
    Health,
    Metrics,
    OpenApi,
    Pipelines,
    Pipeline,
    Explain,
    Operator,
    Swaps,
    Swap,
    Plugin,
    Rollback,
    Stop,
    Savepoints,
}

impl Route {
    /// It changes the run.
    fn is_change(self) -> bool {
        matches!(self, Self::Plugin | Self::Rollback | Self::Stop | Self::Savepoints)
    }

    fn methods(self) -> &'static str {
        if self.is_change() { "POST" } else { "GET, HEAD" }
    }

    fn body_bytes_max(self) -> u64 {
        if self == Self::Plugin { ARTIFACT_BYTES_MAX } else { BODY_BYTES_MAX }
    }
}

/// `{…}` stands for one segment.
const ROUTES: [(&str, Route); 14] = [
    ("/", Route::Root),
    ("/health", Route::Health),
    ("/metrics", Route::Metrics),
    ("/api/v1/openapi.json", Route::OpenApi),
    ("/api/v1/pipelines", Route::Pipelines),
    ("/api/v1/pipelines/{name}", Route::Pipeline),
    ("/api/v1/pipelines/{name}/explain", Route::Explain),
    ("/api/v1/pipelines/{name}/operators/{operator}", Route::Operator),
    ("/api/v1/pipelines/{name}/operators/{operator}/plugin", Route::Plugin),
    ("/api/v1/pipelines/{name}/operators/{operator}/rollback", Route::Rollback),
    ("/api/v1/pipelines/{name}/swaps", Route::Swaps),
    ("/api/v1/pipelines/{name}/swaps/{id}", Route::Swap),
    ("/api/v1/pipelines/{name}/stop", Route::Stop),
    ("/api/v1/pipelines/{name}/savepoints", Route::Savepoints),
];

const OPENAPI: &str = include_str!("openapi.json");

pub struct Routes {
    running: Running,
    token: Option<Token>,
    loopback: bool,
    tally: Tally,
    /// uploads and savepoints: they take long
    slow: Arc<AtomicBool>,
    /// a rollback or stop never waits for one of those
    urgent: Arc<AtomicBool>,
}

impl Handler for Routes {
    fn admit(&self, head: &Request) -> Result<Admitted, Response> {
        let Some((route, names)) = find(&head.path) else {
            return Err(refusal(404, &format!("there is nothing at {}; see /api/v1/openapi.json", head.path)));
        };
        self.admit_caller(head, route)?;
        let allowed = route.methods();
        if !allowed.split(", ").any(|method| method == head.method) {
            let mut refused = refusal(405, &format!("only {allowed} is answered here"));
            refused.headers.push(("Allow", allowed.to_owned()));
            return Err(refused);
        }
        let pipeline = &self.running.pipeline.name;
        if let Some(name) = names.first()
            && name != pipeline
        {
            return Err(refusal(404, &format!("there is no pipeline `{name}` here: this is `{pipeline}`")));
        }
        let body_bytes_max = route.body_bytes_max();
        if !route.is_change() {
            return Ok(Admitted { body_bytes_max, turn: None });
        }
        own_client(head)?;
        if self.running.control.is_none() {
            return Err(refusal(409, &format!("pipeline `{pipeline}` cannot be changed while it runs")));
        }
        let slow = matches!(route, Route::Plugin | Route::Savepoints);
        let turn = Turn::take(if slow { &self.slow } else { &self.urgent });
        let Some(turn) = turn else {
            return Err(refusal(409, "another request that changes the run is being answered; try again in a moment"));
        };
        Ok(Admitted { body_bytes_max, turn: Some(turn) })
    }

    fn answer(&self, request: &Request) -> Response {
        let Some((route, names)) = find(&request.path) else { return refusal(404, "there is nothing here") };
        let r = &self.running;
        let second = names.get(1).copied().unwrap_or_default();
        if let Some(query) = request.query.as_deref().filter(|query| !query.is_empty())
            && request.path.starts_with("/api/")
            && !matches!(route, Route::Plugin | Route::Rollback | Route::Stop)
        {
            return refusal(400, &format!("no parameters are expected here, and there are some: {query}"));
        }
        if route.is_change() {
            let Some(control) = &r.control else { return refusal(409, "this run cannot be changed") };
            let caller = match Caller::of(request, self.token.is_some(), &r.pipeline.name) {
                Ok(caller) => caller,
                Err(refused) => return refused,
            };
            let control = control.as_ref();
            return match route {
                Route::Plugin => change::swap(control, &caller, second, request),
                Route::Rollback => change::rollback(control, &caller, second, request),
                Route::Savepoints => change::savepoint(control, &caller, request),
                _ => change::stop(control, &caller, request),
            };
        }
        match route {
            Route::Root => text("text/plain; charset=utf-8", explain::explain(r).text()),
            Route::Health => json(200, &Health { status: "ok".to_owned() }),
            Route::Metrics => text("text/plain; version=0.0.4; charset=utf-8", metrics::text(r, &self.tally)),
            Route::OpenApi => text(JSON, OPENAPI.to_owned()),
            Route::Pipelines => json(200, &Pipelines { pipelines: vec![r.pipeline.name.clone()] }),
            Route::Pipeline => json(200, &explain::status(r)),
            Route::Explain => json(200, &explain::explain(r)),
            Route::Swaps => json(200, &Swaps { swaps: r.swaps() }),
            Route::Swap => self.swap(second),
            _ => self.operator(second),
        }
    }
}

impl Routes {
    pub fn new(running: Running, token: Option<Token>, loopback: bool) -> Self {
        let (slow, urgent) = (Arc::default(), Arc::default());
        Self { running, token, loopback, tally: Tally::default(), slow, urgent }
    }

    /// Without a token only this machine's own clients, and no page that a browser was tricked into sending here.
    fn admit_caller(&self, request: &Request, route: Route) -> Result<(), Response> {
        match &self.token {
            Some(token) if route != Route::Health && !token.is(request.authorization.as_deref()) => {
                let mut refused = refusal(401, "a token is needed: `Authorization: Bearer …`");
                refused.headers.push(("WWW-Authenticate", "Bearer".to_owned()));
                Err(refused)
            }
            None if self.loopback && !request.host.as_deref().is_none_or(is_loopback) => {
                Err(refusal(403, "the Host is not this machine's own"))
            }
            _ => Ok(()),
        }
    }

    fn swap(&self, id: &str) -> Response {
        let Ok(id) = id.parse::<u64>() else { return refusal(404, &format!("`{id}` is no number of a swap")) };
        match self.running.swaps().into_iter().find(|swap| swap.id == id) {
            Some(swap) => json(200, &swap),
            None => refusal(404, &format!("pipeline `{}` remembers no swap {id}", self.running.pipeline.name)),
        }
    }

    fn operator(&self, name: &str) -> Response {
        let status = explain::status(&self.running).nodes.into_iter().find(|n| n.name == name && n.kind.is_operator());
        let Some(node) = status else {
            return refusal(404, &format!("pipeline `{}` has no operator `{name}`", self.running.pipeline.name));
        };
        let explanation = explain::explain(&self.running).operators.into_iter().find(|o| o.name == name);
        json(200, &OperatorStatus { node, explanation })
    }
}

/// A page in a browser can send requests here, too, without being let to read the answers. It cannot set a header of its
/// own without asking, which nothing here answers, and it says where it comes from.
fn own_client(request: &Request) -> Result<(), Response> {
    if let Some(origin) = &request.origin {
        let host = request.host.as_deref().unwrap_or_default();
        let own = ["http", "https"].iter().any(|scheme| format!("{scheme}://{host}").as_bytes() == origin.as_slice());
        if host.is_empty() || !own {
            return Err(refusal(403, "a page of another origin cannot change a run"));
        }
    }
    if !request.marked {
        return Err(refusal(403, "a request that changes a run needs the header `X-Millrace: 1`"));
    }
    Ok(())
}

fn find(path: &str) -> Option<(Route, Vec<&str>)> {
    ROUTES.iter().find_map(|(template, route)| {
        let (mut names, mut given) = (Vec::new(), path.split('/'));
        for part in template.split('/') {
            let segment = given.next()?;
            if part.starts_with('{') && !segment.is_empty() {
                names.push(segment);
            } else if part != segment {
                return None;
            }
        }
        given.next().is_none().then_some((*route, names))
    })
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

fn text(content_type: &'static str, body: String) -> Response {
    Response { status: 200, content_type, headers: Vec::new(), body: body.into_bytes() }
}

pub fn json(status: u16, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => Response { status, content_type: JSON, headers: Vec::new(), body },
        Err(error) => Response {
            status: 500,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: error.to_string().into_bytes(),
        },
    }
}

pub fn refusal(status: u16, message: &str) -> Response {
    json(status, &Failure { error: message.to_owned() })
}

#[cfg(test)]
pub fn templates() -> Vec<(&'static str, &'static str)> {
    ROUTES.iter().map(|(template, route)| (*template, route.methods())).collect()
}
