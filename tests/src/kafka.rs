//! A real Apache Kafka (KRaft, one node) from its Maven jars.
//!
//! ```text
//!   target/kafka/libs     the jars, fetched once                     (jars)
//!   DIR/server.properties ports chosen at the first start, then kept  (setup)
//!   DIR/data              survives kill and restart
//!   DIR/broker.log        truncated at every start; its line "Kafka Server started" is what a start waits for
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::jars::class_path;
use crate::{paths, process};

mod setup;

use setup::{Ports, format_storage};
pub use setup::{ensure_jars, missing_tool};

const READY_TIMEOUT_S: u64 = 120;
const READY_LINE: &str = "Kafka Server started";
/// A port found free may be taken by somebody else before the broker binds it.
const START_TRIES_MAX: u32 = 3;
const HEAP_MIB: u32 = 768;

/// A user that the broker's SASL listener knows, and its password.
pub const SASL_USER: &str = "alice";
pub const SASL_PASSWORD: &str = "alice-secret";

#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    ports: Ports,
    /// none while killed
    child: Option<Child>,
}

impl Broker {
    /// One for all tests of this process. The kernel kills it when the process ends.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Mutex<Option<&'static Broker>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        shared.get_or_insert_with(|| {
            let dir = paths::target().join("kafka").join(format!("shared-{}", std::process::id()));
            sweep(&paths::target().join("kafka"));
            match Broker::start(&dir) {
                Ok(broker) => Box::leak(Box::new(broker)),
                Err(e) => panic!("no Kafka: {e:#}"),
            }
        })
    }

    /// Starts a broker with its data in `dir`, on the ports it had before, or on free ones.
    pub fn start(dir: &Path) -> Result<Self> {
        let libs = ensure_jars()?;
        let mut tries = 0;
        loop {
            tries += 1;
            let known = Ports::of(dir)?;
            let ports = match known {
                Some(ports) => ports,
                None => format_storage(&libs, dir, None)?,
            };
            let mut broker = Self { dir: dir.to_owned(), ports, child: None };
            match broker.restart() {
                Ok(()) => return Ok(broker),
                Err(e) if known.is_none() && tries < START_TRIES_MAX && format!("{e:#}").contains("bind") => {
                    std::fs::remove_dir_all(dir)?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// The listener that wants SASL/PLAIN.
    pub fn sasl_brokers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sasl)
    }

    /// The listener that wants TLS and then SASL/PLAIN, and the certificate to trust it by.
    pub fn tls_brokers(&self) -> (String, PathBuf) {
        (format!("127.0.0.1:{}", self.ports.tls), self.dir.join(setup::CERTIFICATE))
    }

    /// As `kill -9` would; the data stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(&child, libc::SIGKILL);
            // reaped, so that its ports are free when this returns
            let _ = child.wait();
        }
    }

    /// Starts it again on the same data and ports, and waits until it serves.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the broker is running");
        let command = broker_command(&paths::target().join("kafka/libs"), &self.dir)?;
        let child = self.child.insert(process::spawn(command).context("starting java")?);
        let log = self.dir.join("broker.log");
        let ready = process::wait_for("the broker to start", Duration::from_secs(READY_TIMEOUT_S), || {
            if let Some(status) = child.try_wait()? {
                bail!("the broker ended with {status}:\n{}", tail(&log));
            }
            Ok(std::fs::read_to_string(&log)?.contains(READY_LINE))
        });
        if ready.is_err() {
            self.kill();
        }
        ready
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a broker that outlives this process (for `cargo xtask kafka start` and the demo). Returns its address.
/// One that runs already is left alone.
pub fn start_detached(dir: &Path, port: Option<u16>) -> Result<String> {
    if let Some(address) = detached_status(dir)? {
        return Ok(address);
    }
    let libs = ensure_jars()?;
    let ports = match Ports::of(dir)? {
        Some(ports) if port.is_none_or(|wanted| wanted == ports.plain) => ports,
        _ => format_storage(&libs, dir, port)?,
    };
    let mut command = broker_command(&libs, dir)?;
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("starting java")?;
    std::fs::write(dir.join("broker.pid"), child.id().to_string())?;
    let log = dir.join("broker.log");
    process::wait_for("the broker to start", Duration::from_secs(READY_TIMEOUT_S), || {
        if let Some(status) = child.try_wait()? {
            bail!("the broker ended with {status}:\n{}", tail(&log));
        }
        Ok(std::fs::read_to_string(&log)?.contains(READY_LINE))
    })?;
    Ok(format!("127.0.0.1:{}", ports.plain))
}

/// The address of the detached broker, if it runs.
pub fn detached_status(dir: &Path) -> Result<Option<String>> {
    let Ok(pid) = std::fs::read_to_string(dir.join("broker.pid")) else { return Ok(None) };
    let pid: i32 = pid.trim().parse().with_context(|| format!("{}/broker.pid", dir.display()))?;
    let ports = Ports::of(dir)?;
    Ok(ports.filter(|_| is_our_broker(pid, dir)).map(|ports| format!("127.0.0.1:{}", ports.plain)))
}

/// Stops the detached broker; says whether there was one.
pub fn stop_detached(dir: &Path) -> Result<bool> {
    if detached_status(dir)?.is_none() {
        return Ok(false);
    }
    let file = dir.join("broker.pid");
    let pid: i32 = std::fs::read_to_string(&file)?.trim().parse()?;
    // SAFETY: `kill` takes plain numbers.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    process::wait_for("the broker to stop", Duration::from_secs(30), || Ok(!is_our_broker(pid, dir)))?;
    std::fs::remove_file(file)?;
    Ok(true)
}

/// A process id may have been given to somebody else since.
fn is_our_broker(pid: i32, dir: &Path) -> bool {
    let Ok(output) = Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output() else { return false };
    String::from_utf8_lossy(&output.stdout).contains(&dir.join("server.properties").display().to_string())
}

fn broker_command(libs: &Path, dir: &Path) -> Result<Command> {
    let log = File::create(dir.join("broker.log"))?;
    let mut command = Command::new("java");
    command
        .args([format!("-Xmx{HEAP_MIB}m"), "-Xms128m".to_owned()])
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.net.preferIPv4Stack=true"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])
        .args(["-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info"])
        .arg("-cp")
        .arg(class_path(libs))
        .arg("kafka.Kafka")
        .arg(dir.join("server.properties"))
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log);
    Ok(command)
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n")
}

/// Removes the data of shared brokers whose process is gone.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("shared-").and_then(|pid| pid.parse::<i32>().ok()) else { continue };
        // SAFETY: signal 0 only asks whether the process is there.
        if unsafe { libc::kill(pid, 0) } != 0 {
            // left for the next sweep if it cannot be removed now
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
