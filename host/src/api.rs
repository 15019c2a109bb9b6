//! The HTTP API of a running pipeline: what it is doing, and why a window is still open.
//!
//! ```text
//!   tasks ── publish, once a batch ──▶ RunStats, Status ◀── read when asked ── routes ◀── http (a few threads, bounded)
//! ```
//!
//! A request reads what the tasks have published and takes no lock for longer than a copy: no client can hold a
//! pipeline up. What changes a run is asked of its [`Control`], one at a time, and logged. It listens on the loopback interface; elsewhere only with a bearer token (`MILLRACE_API_TOKEN`).
//!
//! | module | owns |
//! |---|---|
//! | `http` | sockets, limits, one request a connection |
//! | `routes` | which path answers what, who may ask |
//! | `change` | requests that change the run |
//! | `parameters` | what they say |
//! | [`model`] | the answers, as JSON |
//! | `explain` | from what the tasks say to the reason in words |
//! | `metrics` | the same numbers for Prometheus |
//! | [`address`] | where other commands find the API |

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use millrace_core::commit::Fence;
use millrace_core::swap::SwapRecord;

use crate::clock::Clock;
use crate::runtime::control::Control;
use crate::runtime::run::Parts;
use crate::runtime::stats::RunStats;
use crate::spec::model::Pipeline;

pub mod address;
mod change;
mod explain;
mod http;
mod metrics;
pub mod model;
mod parameters;
mod routes;
mod text;
pub mod token;
pub mod words;

use token::Token;

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// If the default port is taken, so many after it are tried.
const PORTS_TRIED: u16 = 100;

/// A run as the API shows it.
pub struct Running {
    pub pipeline: Pipeline,
    pub fence: Fence,
    pub stats: Arc<RunStats>,
    pub clock: Arc<dyn Clock>,
    pub started_at_ms: i64,
    /// none: a run that cannot be changed
    pub control: Option<Arc<dyn Control>>,
}

impl Running {
    pub fn new(parts: &Parts) -> Self {
        Self {
            pipeline: parts.pipeline.clone(),
            fence: parts.fence.clone(),
            stats: Arc::clone(&parts.stats),
            clock: Arc::clone(&parts.clock),
            started_at_ms: parts.clock.now_ms(),
            control: None,
        }
    }

    /// The last ones, oldest first.
    fn swaps(&self) -> Vec<SwapRecord> {
        self.control.as_ref().map(|control| control.swaps()).unwrap_or_default()
    }
}

/// Bound before anything is claimed: an address that is taken changes nothing.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<Token>,
}

/// `wanted`: an address, or none for the default one or the next free port after it.
pub fn bind(wanted: Option<SocketAddr>, token: Option<Token>) -> Result<Bound, String> {
    let address = wanted.unwrap_or(DEFAULT);
    if !address.ip().is_loopback() && token.is_none() {
        return Err(format!(
            "--ui {address} can be reached from other machines, and there is no token\nhint: set {} to a secret that \
             clients send (`Authorization: Bearer …`), {} to a file with it, or listen on 127.0.0.1",
            token::VARIABLE,
            token::FILE_VARIABLE
        ));
    }
    let last = if wanted.is_some() { address.port() } else { address.port().saturating_add(PORTS_TRIED) };
    let mut error = None;
    for port in address.port()..=last {
        match TcpListener::bind(SocketAddr::new(address.ip(), port)) {
            Ok(listener) => {
                let address = listener.local_addr().map_err(|e| format!("--ui {address}: {e}"))?;
                return Ok(Bound { listener, address, token });
            }
            Err(e) => error = Some(e),
        }
    }
    let why = error.map_or_else(String::new, |e| e.to_string());
    Err(format!("--ui {address}: {why}\nhint: another address, or `--ui none`"))
}

/// Answers until it is dropped.
pub struct Api {
    pub url: String,
    _server: http::Server,
}

impl Bound {
    pub fn serve(self, running: Running) -> Result<Api, String> {
        let routes = routes::Routes::new(running, self.token, self.address.ip().is_loopback());
        let server = http::Server::start(self.listener, self.address, Arc::new(routes))
            .map_err(|e| format!("the API's threads cannot be started: {e}"))?;
        Ok(Api { url: format!("http://{}", reachable(self.address)), _server: server })
    }
}

/// An address that listens everywhere is reached here.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

#[cfg(test)]
mod tests;
