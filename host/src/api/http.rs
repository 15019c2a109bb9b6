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
const BODY_BYTES_MAX: u64 = 64 << 10;
/// For a whole request to arrive, and for the whole answer to be taken.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 5_000 });
/// After an error of the listener (too many open files, say).
const BREATH: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// without the query
    pub path: String,
    pub host: Option<String>,
    pub authorization: Option<Vec<u8>>,
}

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
    pub fn start(listener: TcpListener, address: SocketAddr, handler: Handler) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, connections) = bounded(WAITING_MAX);
        let mut server = Self { address, stop: Arc::clone(&stop), threads: Vec::new() };
        for number in 0..WORKERS {
            let (connections, handler): (Receiver<TcpStream>, _) = (connections.clone(), Arc::clone(&handler));
            let work = move || {
                for stream in connections {
                    if let Err(error) = serve(stream, &handler) {
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

fn serve(mut stream: TcpStream, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let response = match read(&mut stream, Instant::now() + PATIENCE)? {
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
fn read(stream: &mut TcpStream, until: Instant) -> io::Result<Result<Request, Response>> {
    let mut bytes = Vec::with_capacity(1 << 10);
    let (request, body_bytes, head_bytes) = loop {
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
    // nothing reads a body yet, but a client may send one
    let mut left = body_bytes.saturating_sub((bytes.len() - head_bytes) as u64);
    while left > 0 {
        bytes.clear();
        match receive(stream, &mut bytes, HEAD_BYTES_MAX, until)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left = left.saturating_sub(n as u64),
        }
    }
    Ok(Ok(request))
}

fn receive(stream: &mut TcpStream, into: &mut Vec<u8>, max: usize, until: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(left(until)?))?;
    let mut chunk = [0; 4 << 10];
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
    if body_bytes > BODY_BYTES_MAX {
        return Err(super::routes::refusal(413, "the body is too long"));
    }
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    let host = header("host").and_then(|h| std::str::from_utf8(h).ok()).map(str::to_owned);
    let authorization = header("authorization").map(<[u8]>::to_vec);
    Ok(Some((Request { method: method.to_owned(), path, host, authorization }, body_bytes, head_bytes)))
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
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Internal Server Error",
    }
}
