//! WASI 0.2 for guests of any language, without authority: no files, no sockets, empty environment and arguments, empty
//! stdin, stdout and stderr as log messages, a clock that stands still and randomness from a seed, so that a plugin's
//! answers depend on its input alone. `capabilities` swap in the real clock or real randomness.
//!
//! No call in here waits. Everything that can be polled (stdin at its end, stdout, a timer) counts as ready at once: a
//! sleeping guest would escape its deadline, since epochs end WebAssembly and not the host's calls. That is why polling,
//! streams and timers are this file's own and only the rest is wasmtime-wasi's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasData, Linker, Resource, ResourceTable, ResourceType};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::bindings::sync::sockets::udp_create_socket;
use wasmtime_wasi::p2::bindings::{cli, filesystem, sockets, sync};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Network, OutputStream, Pollable, SocketError, SocketResult,
    StreamError, StreamResult, UdpSocket, subscribe,
};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView};

use super::limits::{Capabilities, RANDOM_BYTES_MAX, WASI_HANDLES_MAX, WASI_WRITE_BYTES_MAX};
use super::store::{GuestLog, HostState, Output};

/// What one instance's WASI calls work on.
pub(super) struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    timer: Timer,
    random: Seeded,
}

impl Wasi {
    pub(super) fn new(log: &Arc<Mutex<GuestLog>>, capabilities: Capabilities) -> Self {
        let mut ctx = WasiCtx::builder();
        ctx.stdout(LogStream { log: Arc::clone(log), output: Output::Stdout })
            .stderr(LogStream { log: Arc::clone(log), output: Output::Stderr })
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false);
        if !capabilities.clock {
            ctx.wall_clock(StoppedClock);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(WASI_HANDLES_MAX);
        let timer = Timer { since: capabilities.clock.then(Instant::now) };
        Self { ctx: ctx.build(), table, timer, random: Seeded(0) }
    }

    fn never_waits(&mut self) -> NeverWaits<'_> {
        NeverWaits { table: &mut self.table, timer: self.timer }
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi.ctx, table: &mut self.wasi.table }
    }
}

/// The patch release that wasmtime-wasi links; another one of 0.2 finds it, too.
const LINKED_VERSION: &str = "0.2.12";

/// Functions that nobody serves (`wasi:http`, a later patch release's) trap when they are called. To be called last.
pub(super) fn trap_on_the_rest(linker: &mut Linker<HostState>, component: &Component) -> Result<()> {
    struct Nobody;
    let engine = component.engine();
    // An interface that uses a resource of another one names it again: that is no resource of its own.
    let mut known = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let (Some((interface, _)), ComponentItem::ComponentInstance(wanted)) = (name.rsplit_once('@'), import.ty)
        else {
            continue;
        };
        if !interface.starts_with("wasi:") {
            continue;
        }
        let mut instance = linker.instance(&format!("{interface}@{LINKED_VERSION}"))?;
        for (item, wanted) in wanted.exports(engine) {
            // What is served already stays: defining it twice is an error without effect.
            let _ = match wanted.ty {
                ComponentItem::ComponentFunc(_) => {
                    let called = format!("it called `{name}#{item}`, which this host does not have");
                    instance.func_new(item, move |_, _, _, _| Err(wasmtime::Error::msg(called.clone())))
                }
                ComponentItem::Resource(resource) if !known.contains(&resource) => {
                    known.push(resource);
                    instance.resource(item, ResourceType::host::<Nobody>(), |_, _| Ok(()))
                }
                _ => Ok(()),
            };
        }
    }
    Ok(())
}

/// Everything of WASI that has an answer.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>, capabilities: Capabilities) -> Result<()> {
    type Host = HostState;
    fn never_waits(state: &mut Host) -> NeverWaits<'_> {
        state.wasi.never_waits()
    }
    let l = linker;
    wasmtime_wasi::p2::bindings::io::error::add_to_linker::<Host, Table>(l, |state| &mut state.wasi.table)?;
    poll::add_to_linker::<Host, WithoutWaiting>(l, never_waits)?;
    streams::add_to_linker::<Host, WithoutWaiting>(l, never_waits)?;
    monotonic_clock::add_to_linker::<Host, WithoutWaiting>(l, never_waits)?;
    wall_clock::add_to_linker::<Host, WasiClocks>(l, Host::clocks)?;

    if capabilities.random {
        random::add_to_linker::<Host, WasiRandom>(l, |state| wasmtime_wasi::random::WasiRandomView::random(state))?;
        insecure::add_to_linker::<Host, WasiRandom>(l, |state| wasmtime_wasi::random::WasiRandomView::random(state))?;
        insecure_seed::add_to_linker::<Host, WasiRandom>(l, |state| {
            wasmtime_wasi::random::WasiRandomView::random(state)
        })?;
    } else {
        random::add_to_linker::<Host, FromSeed>(l, |state| &mut state.wasi.random)?;
        insecure::add_to_linker::<Host, FromSeed>(l, |state| &mut state.wasi.random)?;
        insecure_seed::add_to_linker::<Host, FromSeed>(l, |state| &mut state.wasi.random)?;
    }

    cli::environment::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::exit::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::stdin::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::stdout::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::stderr::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::terminal_input::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::terminal_output::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::terminal_stdin::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::terminal_stdout::add_to_linker::<Host, WasiCli>(l, Host::cli)?;
    cli::terminal_stderr::add_to_linker::<Host, WasiCli>(l, Host::cli)?;

    // There is no directory to begin with, hence no descriptor; sockets cannot be made, names are not looked up.
    filesystem::preopens::add_to_linker::<Host, WasiFilesystem>(l, Host::filesystem)?;
    sync::filesystem::types::add_to_linker::<Host, WasiFilesystem>(l, Host::filesystem)?;
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<Host, WasiSockets>(l, &options, Host::sockets)?;
    sockets::instance_network::add_to_linker::<Host, WasiSockets>(l, Host::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<Host, WasiSockets>(l, Host::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<Host, WasiSockets>(l, Host::sockets)?;
    sync::sockets::tcp::add_to_linker::<Host, WasiSockets>(l, Host::sockets)?;
    sync::sockets::udp::add_to_linker::<Host, WasiSockets>(l, Host::sockets)?;
    udp_create_socket::add_to_linker::<Host, WithoutWaiting>(l, never_waits)?;
    Ok(())
}

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

struct WithoutWaiting;

impl HasData for WithoutWaiting {
    type Data<'a> = NeverWaits<'a>;
}

struct NeverWaits<'a> {
    table: &'a mut ResourceTable,
    timer: Timer,
}

impl poll::Host for NeverWaits<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(wasmtime::format_err!("it polls an empty list: that would wait for ever"));
        }
        Ok((0_u32..).zip(&pollables).map(|(index, _)| index).collect())
    }
}

impl poll::HostPollable for NeverWaits<'_> {
    fn ready(&mut self, _: Resource<DynPollable>) -> Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _: Resource<DynPollable>) -> Result<()> {
        Ok(())
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        poll::HostPollable::drop(self.table, pollable)
    }
}

/// Blocking calls are those that do not block, for streams that are always ready.
impl streams::Host for NeverWaits<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        streams::Host::convert_stream_error(self.table, error)
    }
}

impl streams::HostInputStream for NeverWaits<'_> {
    fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }

    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        streams::HostInputStream::read(self.table, stream, len)
    }

    fn blocking_read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        self.read(stream, len)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        streams::HostInputStream::skip(self.table, stream, len)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        self.skip(stream, len)
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        streams::HostInputStream::subscribe(self.table, stream)
    }
}

impl streams::HostOutputStream for NeverWaits<'_> {
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        streams::HostOutputStream::check_write(self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        streams::HostOutputStream::write(self.table, stream, bytes)
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        self.write_zeroes(stream, len)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        streams::HostOutputStream::write_zeroes(self.table, stream, len)
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        streams::HostOutputStream::subscribe(self.table, stream)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        streams::HostOutputStream::flush(self.table, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.flush(stream)
    }

    fn splice(&mut self, to: Resource<DynOutputStream>, from: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        streams::HostOutputStream::splice(self.table, to, from, len)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        self.splice(to, from, len)
    }
}

/// wasmtime-wasi's own would start an executor to say the same.
impl udp_create_socket::Host for NeverWaits<'_> {
    fn create_udp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Err(ErrorCode::AccessDenied.into())
    }
}

impl sockets::network::Host for NeverWaits<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, _: Resource<wasmtime_wasi::p2::IoError>) -> Result<Option<ErrorCode>> {
        Ok(None)
    }
}

impl sockets::network::HostNetwork for NeverWaits<'_> {
    fn drop(&mut self, network: Resource<Network>) -> Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}

/// The monotonic clock. It stands still unless the plugin has the capability.
#[derive(Clone, Copy)]
struct Timer {
    since: Option<Instant>,
}

/// Not 0: some languages subtract from their first reading.
const MONOTONIC_START: Duration = Duration::from_secs(3_600);

impl monotonic_clock::Host for NeverWaits<'_> {
    fn now(&mut self) -> Result<u64> {
        let passed = self.timer.since.map_or(Duration::ZERO, |since| since.elapsed());
        Ok(u64::try_from((MONOTONIC_START + passed).as_nanos())?)
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, _: u64) -> Result<Resource<DynPollable>> {
        let ready = self.table.push(Ready)?;
        subscribe(self.table, ready)
    }

    fn subscribe_duration(&mut self, _: u64) -> Result<Resource<DynPollable>> {
        self.subscribe_instant(0)
    }
}

struct Ready;

#[async_trait]
impl Pollable for Ready {
    async fn ready(&mut self) {}
}

/// The wall clock of a plugin without the capability: 1970-01-01T00:00:00Z, which nobody takes for the truth.
struct StoppedClock;

impl HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

struct FromSeed;

impl HasData for FromSeed {
    type Data<'a> = &'a mut Seeded;
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): each instance sees the same
/// numbers.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > RANDOM_BYTES_MAX {
            return Err(wasmtime::format_err!(
                "it asked for {len} random bytes at once, at most {RANDOM_BYTES_MAX} are possible"
            ));
        }
        let len = usize::try_from(len)?;
        Ok(std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(len).collect())
    }
}

impl random::Host for Seeded {
    fn get_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.bytes(len)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        Ok(self.next())
    }
}

impl insecure::Host for Seeded {
    fn get_insecure_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        Ok(self.next())
    }
}

impl insecure_seed::Host for Seeded {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((self.next(), self.next()))
    }
}

/// stdout or stderr: every line is a log message.
#[derive(Clone)]
struct LogStream {
    log: Arc<Mutex<GuestLog>>,
    output: Output,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// asked for by WASI 0.3 only, which is not linked
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.print(self.output, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    /// also what `write-zeroes` may make the host allocate
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WASI_WRITE_BYTES_MAX)
    }
}
