//! Jars, ports, properties and formatted storage: all that a broker needs before its first start.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use super::{SASL_PASSWORD, SASL_USER};
use crate::paths;

/// Any will do: every broker has a data folder of its own.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub plain: u16,
    pub sasl: u16,
    pub controller: u16,
}

impl Ports {
    /// The ports of a folder that has been set up before.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join("ports");
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
        let numbers: Vec<u16> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [plain, sasl, controller] => Ok(Some(Self { plain, sasl, controller })),
            _ => bail!("{}: `{}` is not three ports: remove the folder", file.display(), text.trim()),
        }
    }

    fn choose(plain: Option<u16>) -> Result<Self> {
        let listeners = (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<Vec<_>>>()?;
        let free = listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { plain: plain.unwrap_or(free[0]), sasl: free[1], controller: free[2] })
    }
}

/// The one line that says what a real broker needs and this machine has not.
pub fn missing_tool() -> Option<String> {
    let there = |name: &str, version: &str| {
        Command::new(name).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if !there("java", "-version") {
        return Some("Java 17 or newer is missing (Debian: default-jre-headless)".to_owned());
    }
    let fetched = paths::target().join("kafka/libs/.complete").is_file();
    (!fetched && !there("mvn", "--version")).then(|| "Maven is missing (Debian: maven)".to_owned())
}

/// Fetches the jars unless they are there; returns their folder.
pub fn ensure_jars() -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(missing) = missing_tool() {
        bail!("{missing}");
    }
    let libs = paths::target().join("kafka/libs");
    let pom = paths::workspace().join("tests/kafka/pom.xml");
    let stamp = libs.join(".complete");
    let wanted = std::fs::read_to_string(&pom).with_context(|| format!("reading {}", pom.display()))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(libs);
    }
    eprintln!("fetching Apache Kafka with Maven (once, 45 MB)");
    if libs.exists() {
        std::fs::remove_dir_all(&libs)?;
    }
    std::fs::create_dir_all(&libs)?;
    let output = Command::new("mvn")
        .args(["-B", "-q", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .arg("-DincludeScope=runtime")
        .output()
        .context("running mvn")?;
    ensure!(
        output.status.success(),
        "Maven could not fetch Apache Kafka ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    std::fs::write(stamp, wanted)?;
    Ok(libs)
}

pub(super) fn class_path(libs: &Path) -> String {
    format!("{}/*", libs.display())
}

/// Writes the properties and formats the storage of a new broker.
pub(super) fn format_storage(libs: &Path, dir: &Path, port: Option<u16>) -> Result<Ports> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir)?;
    let ports = Ports::choose(port)?;
    let properties = dir.join("server.properties");
    std::fs::write(&properties, server_properties(dir, ports))?;
    let output = Command::new("java")
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
        .arg("-cp")
        .arg(class_path(libs))
        .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER_ID, "-c"])
        .arg(&properties)
        .output()
        .context("running java")?;
    ensure!(
        output.status.success(),
        "formatting the broker's storage ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // last, so that a folder with this file is a whole one
    std::fs::write(dir.join("ports"), format!("{} {} {}\n", ports.plain, ports.sasl, ports.controller))?;
    Ok(ports)
}

fn server_properties(dir: &Path, Ports { plain, sasl, controller }: Ports) -> String {
    let listeners =
        format!("PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{SASL_USER}=\"{SASL_PASSWORD}\";
log.dirs={}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
",
        dir.join("data").display()
    )
}
