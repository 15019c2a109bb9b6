//! HTTP/1.1, as little of it as an API needs: one request a connection, read and answered within bounds of size, time
//! and threads. Clients that are slow, send too much or come in crowds are cut off; nobody else notices.

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
const HEADERS_MAX: usize = 64;
/// Of a body, that many bytes must come within [`PATIENCE`].
const BODY_BYTES_MIN: usize = 64 << 10;
/// For a whole request to arrive, and for the whole answer to be taken.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 5_000 });
/// After an error of the listener (too many open files, say).
const BREATH: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// without the query
    pub path: String,
    /// what comes after `?`, as it was sent
    pub query: String,
    pub host: Option<String>,
    pub authorization: Option<Vec<u8>>,
    /// set by browsers: the page that sends it
    pub origin: Option<String>,
    pub content_type: Option<String>,
    /// who the client says it is
    pub user: Option<String>,
    pub peer: Option<SocketAddr>,
    pub body: Vec<u8>,
}

/// How large the body of a request may be.
pub type BodyLimit = fn(&Request) -> u64;

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

pub type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(listener: TcpListener, address: SocketAddr, limit: BodyLimit, handler: Handler) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, connections) = bounded(WAITING_MAX);
        let mut server = Self { address, stop: Arc::clone(&stop), threads: Vec::new() };
        for number in 0..WORKERS {
            let (connections, handler): (Receiver<TcpStream>, _) = (connections.clone(), Arc::clone(&handler));
            let work = move || {
                for stream in connections {
                    if let Err(error) = serve(stream, limit, &handler) {
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

fn serve(mut stream: TcpStream, limit: BodyLimit, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let response = match read(&mut stream, limit, Instant::now() + PATIENCE)? {
        Ok(request) => {
            let mut response = handler(&request);
            if request.method == "HEAD" {
                let length = response.body.len().to_string();
                response.body.clear();
                response.headers.push(("Content-Length", length));
            }
            response
        }
        Err(refusal) => refusal,
    };
    write(&mut stream, &response, Instant::now() + PATIENCE)?;
    stream.shutdown(Shutdown::Write)
}

/// A request, or the answer to what is none.
fn read(stream: &mut TcpStream, limit: BodyLimit, until: Instant) -> io::Result<Result<Request, Response>> {
    let mut bytes = Vec::with_capacity(1 << 10);
    let (mut request, body_bytes, head_bytes) = loop {
        if bytes.len() >= HEAD_BYTES_MAX {
            return Ok(Err(super::routes::refusal(431, "the head of the request is too long")));
        }
        let room = HEAD_BYTES_MAX - bytes.len();
        if receive(stream, &mut bytes, room, until)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse(&bytes) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
    if body_bytes > limit(&request) {
        return Ok(Err(super::routes::refusal(413, "the body is too long")));
    }
    let body_bytes = usize::try_from(body_bytes).unwrap_or(usize::MAX);
    let mut body = bytes.split_off(head_bytes.min(bytes.len()));
    request.peer = stream.peer_addr().ok();
    let (mut until, mut mark) = (until, 0);
    while body.len() < body_bytes {
        if body.len() - mark >= BODY_BYTES_MIN {
            (until, mark) = (Instant::now() + PATIENCE, body.len());
        }
        let room = body_bytes - body.len();
        if receive(stream, &mut body, room, until)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    body.truncate(body_bytes);
    request.body = body;
    Ok(Ok(request))
}

fn receive(stream: &mut TcpStream, into: &mut Vec<u8>, max: usize, until: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(until)?))?;
    let mut chunk = [0; 16 << 10];
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

/// The request, the size of its body and of its head; none while the head is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Request, u64, usize)>, Response> {
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
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let text = |name: &str| header(name).and_then(|h| std::str::from_utf8(h).ok()).map(str::to_owned);
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        host: text("host"),
        authorization: header("authorization").map(<[u8]>::to_vec),
        // one that cannot be read is not the API's own
        origin: header("origin").map(|h| String::from_utf8_lossy(h).into_owned()),
        content_type: text("content-type"),
        user: text("x-millrace-user"),
        peer: None,
        body: Vec::new(),
    };
    Ok(Some((request, body_bytes, head_bytes)))
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
