//! Which path answers what, and who may ask.

use serde::Serialize;

use super::changes::{self, Changes};
use super::http::{Request, Response};
use super::model::{Failure, Health, OperatorStatus, Pipelines, Swaps};
use super::token::Token;
use super::{Running, explain, metrics};

const JSON: &str = "application/json";

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
    fn changes(self) -> bool {
        matches!(self, Self::Plugin | Self::Rollback | Self::Stop | Self::Savepoints)
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
    ("/api/v1/pipelines/{name}/swaps", Route::Swaps),
    ("/api/v1/pipelines/{name}/swaps/{id}", Route::Swap),
    ("/api/v1/pipelines/{name}/operators/{operator}/plugin", Route::Plugin),
    ("/api/v1/pipelines/{name}/operators/{operator}/rollback", Route::Rollback),
    ("/api/v1/pipelines/{name}/stop", Route::Stop),
    ("/api/v1/pipelines/{name}/savepoints", Route::Savepoints),
];

const OPENAPI: &str = include_str!("openapi.json");

pub struct Routes {
    running: Running,
    token: Option<Token>,
    loopback: bool,
    changes: Changes,
}

impl Routes {
    pub fn new(running: Running, token: Option<Token>, loopback: bool) -> Self {
        Self { running, token, loopback, changes: Changes::default() }
    }

    pub fn answer(&self, request: &Request) -> Response {
        let Some((route, names)) = find(&request.path) else {
            return refusal(404, &format!("there is nothing at {}; see /api/v1/openapi.json", request.path));
        };
        if let Err(refused) = self.admit(request, route) {
            return refused;
        }
        let allowed: &[&str] = if route.changes() { &["POST"] } else { &["GET", "HEAD"] };
        if !allowed.contains(&request.method.as_str()) {
            let allowed = allowed.join(", ");
            let mut refused = refusal(405, &format!("only {allowed} is answered here"));
            refused.headers.push(("Allow", allowed));
            return refused;
        }
        if route.changes()
            && let Some(refused) = changes::from_elsewhere(request)
        {
            return refused;
        }
        let r = &self.running;
        if let Some(name) = names.first()
            && *name != r.pipeline.name
        {
            return refusal(404, &format!("there is no pipeline `{name}` here: this is `{}`", r.pipeline.name));
        }
        let second = names.get(1).copied().unwrap_or_default();
        match route {
            Route::Root => text("text/plain; charset=utf-8", explain::explain(r).text()),
            Route::Health => json(200, &Health { status: "ok".to_owned() }),
            Route::Metrics => text("text/plain; version=0.0.4; charset=utf-8", metrics::text(r)),
            Route::OpenApi => text(JSON, OPENAPI.to_owned()),
            Route::Pipelines => json(200, &Pipelines { pipelines: vec![r.pipeline.name.clone()] }),
            Route::Pipeline => json(200, &explain::status(r)),
            Route::Explain => json(200, &explain::explain(r)),
            Route::Operator => self.operator(second),
            Route::Swaps => json(200, &Swaps { swaps: r.history.snapshot().iter().cloned().collect() }),
            Route::Swap => {
                let found = second.parse().ok().and_then(|id| r.history.lock().get(id).cloned());
                found.map_or_else(|| refusal(404, &format!("there is no swap `{second}`")), |swap| json(200, &swap))
            }
            Route::Plugin => self.changes.swap(r, second, request),
            Route::Rollback => self.changes.roll_back(r, second, request),
            Route::Stop => self.changes.stop(r, request),
            Route::Savepoints => self.changes.savepoint(r, request),
        }
    }

    /// Without a token only this machine's own clients, and no page that a browser was tricked into sending here.
    fn admit(&self, request: &Request, route: Route) -> Result<(), Response> {
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

    fn operator(&self, name: &str) -> Response {
        let status = explain::status(&self.running).nodes.into_iter().find(|n| n.name == name && n.kind.is_operator());
        let Some(node) = status else {
            return refusal(404, &format!("pipeline `{}` has no operator `{name}`", self.running.pipeline.name));
        };
        let explanation = explain::explain(&self.running).operators.into_iter().find(|o| o.name == name);
        json(200, &OperatorStatus { node, explanation })
    }
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

pub use changes::body_limit;

pub fn refusal(status: u16, message: &str) -> Response {
    json(status, &Failure { error: message.to_owned() })
}

/// Path and method of each.
#[cfg(test)]
pub fn templates() -> Vec<(&'static str, &'static str)> {
    ROUTES.iter().map(|(template, route)| (*template, if route.changes() { "post" } else { "get" })).collect()
}
