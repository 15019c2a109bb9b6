//! HTTP/1.1, as little of it as an API needs: one request a connection, read and answered within bounds of size, time
//! and threads. Clients that are slow, send too much or come in crowds are cut off; nobody else notices.
//!
//! A handler says from the head alone whether a body is taken and how long it may be: what is not admitted is answered
//! before anything of it is kept.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TrySendError, bounded};
use tracing::debug;

const WORKERS: usize = 4;
/// Connections that wait for a worker; more are closed at once.
const WAITING_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Read at once.
const CHUNK_BYTES: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// For the head of a request to arrive, for more of its body to come, and for the whole answer to be taken.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 5_000 });
/// For the whole body to arrive: an upload over a slow line.
const BODY_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 2_000 } else { 120_000 });
/// What a client still sends after it was refused is read for so long: one that is cut off while it sends may not see why.
const REFUSED_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 2_000 });
/// After an error of the listener (too many open files, say).
const BREATH: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// without the query
    pub path: String,
    /// as it was sent
    pub query: Option<String>,
    pub host: Option<String>,
    pub authorization: Option<Vec<u8>>,
    pub origin: Option<Vec<u8>>,
    pub content_type: Option<String>,
    /// `X-Millrace: 1`: no page in a browser can send it to another origin unasked
    pub marked: bool,
    /// `X-Millrace-User`
    pub user: Option<Vec<u8>>,
    pub peer: SocketAddr,
    pub body: Vec<u8>,
    body_bytes: u64,
    expects_continue: bool,
}

impl Request {
    pub fn has_body(&self) -> bool {
        self.body_bytes > 0
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// What a request may do that was admitted by its head.
pub struct Admitted {
    pub body_bytes_max: u64,
    /// held until the request is answered
    #[allow(dead_code, reason = "it is held, never looked at")]
    pub turn: Option<Turn>,
}

/// One of a kind at a time; given back when dropped.
pub struct Turn(Arc<AtomicBool>);

impl Turn {
    pub fn take(busy: &Arc<AtomicBool>) -> Option<Self> {
        (!busy.swap(true, SeqCst)).then(|| Self(Arc::clone(busy)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

pub trait Handler: Send + Sync {
    /// By the head: the body has not been read.
    fn admit(&self, head: &Request) -> Result<Admitted, Response>;

    fn answer(&self, request: &Request) -> Response;
}

pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(listener: TcpListener, address: SocketAddr, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, connections) = bounded(WAITING_MAX);
        let mut server = Self { address, stop: Arc::clone(&stop), threads: Vec::new() };
        for number in 0..WORKERS {
            let (connections, handler): (Receiver<TcpStream>, _) = (connections.clone(), Arc::clone(&handler));
            let work = move || {
                for stream in connections {
                    if let Err(error) = serve(stream, handler.as_ref()) {
                        debug!("a client of the API is gone: {error}");
                    }
                }
            };
            server.threads.push(std::thread::Builder::new().name(format!("api-{number}")).spawn(work)?);
        }
        let accept = move || {
            for stream in listener.incoming() {
                if stop.load(SeqCst) {
                    return;
                }
                match stream.map(|stream| sender.try_send(stream)) {
                    Ok(Ok(())) => {}
                    Ok(Err(TrySendError::Full(_))) => debug!("too many clients of the API: one is turned away"),
                    Ok(Err(TrySendError::Disconnected(_))) => return,
                    Err(error) => {
                        debug!("the API cannot take a connection: {error}");
                        std::thread::sleep(BREATH);
                    }
                }
            }
        };
        server.threads.push(std::thread::Builder::new().name("api".into()).spawn(accept)?);
        Ok(server)
    }
}

impl Drop for Server {
    /// Requests under way are answered; each is bounded in time.
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // it waits for a connection
        if TcpStream::connect_timeout(&super::reachable(self.address), PATIENCE).is_err() {
            return;
        }
        for thread in self.threads.drain(..) {
            // whatever it was, the run is over
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, handler: &dyn Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, mut unread) = match read_head(&mut stream, Instant::now() + PATIENCE)? {
        Ok(read) => read,
        Err(refusal) => return refuse(&mut stream, &refusal),
    };
    let admitted = match handler.admit(&request) {
        Ok(admitted) if request.body_bytes > admitted.body_bytes_max => Err(super::routes::refusal(
            413,
            &format!("the body is too long: at most {} bytes are taken here", admitted.body_bytes_max),
        )),
        other => other,
    };
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => return refuse(&mut stream, &refusal),
    };
    read_body(&mut stream, &mut request, &mut unread)?;
    let mut response = handler.answer(&request);
    // before the client can have the answer, and ask again
    drop(admitted);
    if request.method == "HEAD" {
        let length = response.body.len().to_string();
        response.body.clear();
        response.headers.push(("Content-Length", length));
    }
    write(&mut stream, &response, Instant::now() + PATIENCE)?;
    stream.shutdown(Shutdown::Write)
}

/// The answer, then the end of what the client still sends.
fn refuse(stream: &mut TcpStream, refusal: &Response) -> io::Result<()> {
    write(stream, refusal, Instant::now() + PATIENCE)?;
    stream.shutdown(Shutdown::Write)?;
    let until = Instant::now() + REFUSED_PATIENCE;
    let mut nothing = Vec::new();
    while receive(stream, &mut nothing, CHUNK_BYTES, until)? > 0 {
        nothing.clear();
    }
    Ok(())
}

/// A request without its body and what has come of that, or the answer to what is none.
fn read_head(stream: &mut TcpStream, until: Instant) -> io::Result<Result<(Request, Vec<u8>), Response>> {
    let peer = stream.peer_addr()?;
    let mut bytes = Vec::with_capacity(1 << 10);
    loop {
        if bytes.len() >= HEAD_BYTES_MAX {
            return Ok(Err(super::routes::refusal(431, "the head of the request is too long")));
        }
        let room = HEAD_BYTES_MAX - bytes.len();
        if receive(stream, &mut bytes, room, until)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse(&bytes, peer) {
            Ok(Some((request, head_bytes))) => return Ok(Ok((request, bytes.split_off(head_bytes)))),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// As long as something comes, within the time for a body. `first`: what came with the head.
fn read_body(stream: &mut TcpStream, request: &mut Request, first: &mut Vec<u8>) -> io::Result<()> {
    let until = Instant::now() + BODY_PATIENCE;
    let wanted = usize::try_from(request.body_bytes).unwrap_or(usize::MAX);
    if request.expects_continue && first.len() < wanted {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    first.truncate(wanted);
    let mut body = std::mem::take(first);
    while body.len() < wanted {
        let room = wanted - body.len();
        if receive(stream, &mut body, room, until.min(Instant::now() + PATIENCE))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    request.body = body;
    Ok(())
}

fn receive(stream: &mut TcpStream, into: &mut Vec<u8>, max: usize, until: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(until)?))?;
    let mut chunk = [0; CHUNK_BYTES];
    let room = chunk.len().min(max);
    let n = stream.read(chunk.get_mut(..room).unwrap_or_default())?;
    into.extend_from_slice(chunk.get(..n).unwrap_or_default());
    Ok(n)
}

fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// The request without its body, and the size of its head; none while the head is not complete.
fn parse(bytes: &[u8], peer: SocketAddr) -> Result<Option<(Request, usize)>, Response> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let bad = |what: &str| super::routes::refusal(400, what);
    let head_bytes = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(super::routes::refusal(431, "too many headers")),
        Err(error) => return Err(bad(&format!("not HTTP: {error}"))),
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(bad("not HTTP")) };
    let header = |name: &str| parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    if header("transfer-encoding").is_some() {
        return Err(super::routes::refusal(411, "a body needs a Content-Length"));
    }
    let body_bytes = match header("content-length") {
        None => 0,
        Some(text) => {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| bad("the Content-Length is no number"))?
        }
    };
    let (path, query) = match target.split('#').next().unwrap_or_default().split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let text = |name: &str| header(name).and_then(|h| std::str::from_utf8(h).ok()).map(str::to_owned);
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query,
        host: text("host"),
        authorization: header("authorization").map(<[u8]>::to_vec),
        origin: header("origin").map(<[u8]>::to_vec),
        content_type: text("content-type"),
        marked: header("x-millrace").is_some_and(|value| value.trim_ascii() == b"1"),
        user: header("x-millrace-user").map(<[u8]>::to_vec),
        peer,
        body: Vec::new(),
        body_bytes,
        expects_continue: header("expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
    };
    Ok(Some((request, head_bytes)))
}

fn write(stream: &mut TcpStream, response: &Response, until: Instant) -> io::Result<()> {
    let mut bytes = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\n",
        response.status,
        reason(response.status),
        response.content_type,
    );
    for (name, value) in &response.headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    if !response.headers.iter().any(|(name, _)| *name == "Content-Length") {
        bytes += &format!("Content-Length: {}\r\n", response.body.len());
    }
    let mut bytes = (bytes + "\r\n").into_bytes();
    bytes.extend_from_slice(&response.body);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        let written = stream.write(rest)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        _ => "Internal Server Error",
    }
}
