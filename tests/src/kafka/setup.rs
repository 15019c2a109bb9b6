//! Jars, ports, properties and formatted storage: all that a broker needs before its first start.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{SASL_PASSWORD, SASL_USER};
use crate::{jars, paths};

/// Any will do: every broker has a data folder of its own.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";
/// The TLS listener's key, and the certificate that clients trust it by.
const KEYSTORE: &str = "broker.p12";
const STORE_PASSWORD: &str = "millrace";
pub(super) const CERTIFICATE: &str = "broker.pem";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub plain: u16,
    pub sasl: u16,
    pub tls: u16,
    pub controller: u16,
}

impl Ports {
    /// The ports of a folder that has been set up before.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join("ports");
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
        let numbers: Vec<u16> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [plain, sasl, tls, controller] => Ok(Some(Self { plain, sasl, tls, controller })),
            _ => bail!("{}: `{}` is not four ports: remove the folder", file.display(), text.trim()),
        }
    }

    fn choose(plain: Option<u16>) -> Result<Self> {
        let listeners = (0..4).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<Vec<_>>>()?;
        let free = listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { plain: plain.unwrap_or(free[0]), sasl: free[1], tls: free[2], controller: free[3] })
    }
}

/// The one line that says what a real broker needs and this machine has not.
pub fn missing_tool() -> Option<String> {
    jars::missing_tool("kafka/libs")
}

/// Fetches the jars unless they are there; returns their folder.
pub fn ensure_jars() -> Result<PathBuf> {
    jars::ensure("Apache Kafka, 45 MB", &paths::workspace().join("tests/kafka/pom.xml"), "kafka/libs")
}

/// Writes the properties and formats the storage of a new broker.
pub(super) fn format_storage(libs: &Path, dir: &Path, port: Option<u16>) -> Result<Ports> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir)?;
    let ports = Ports::choose(port)?;
    make_certificate(dir)?;
    let properties = dir.join("server.properties");
    std::fs::write(&properties, server_properties(dir, ports))?;
    let output = Command::new("java")
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
        .arg("-cp")
        .arg(jars::class_path(libs))
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
    std::fs::write(dir.join("ports"), format!("{} {} {} {}\n", ports.plain, ports.sasl, ports.tls, ports.controller))?;
    Ok(ports)
}

/// A key for the TLS listener, signed by itself.
fn make_certificate(dir: &Path) -> Result<()> {
    let keytool = |arguments: &[&str]| -> Result<Vec<u8>> {
        let output = Command::new("keytool")
            .args(arguments)
            .args(["-alias", "broker", "-storetype", "PKCS12", "-storepass", STORE_PASSWORD, "-keystore"])
            .arg(dir.join(KEYSTORE))
            .output()
            .context("running keytool")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "keytool ended with {}:\n{said}", output.status);
        Ok(output.stdout)
    };
    keytool(&[
        "-genkeypair",
        "-keyalg",
        "EC",
        "-validity",
        "3650",
        "-dname",
        "CN=127.0.0.1",
        "-ext",
        "SAN=ip:127.0.0.1",
    ])?;
    std::fs::write(dir.join(CERTIFICATE), keytool(&["-exportcert", "-rfc"])?)?;
    Ok(())
}

fn server_properties(dir: &Path, Ports { plain, sasl, tls, controller }: Ports) -> String {
    let listeners = format!(
        "PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},SASL_SSL://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}"
    );
    let users = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_{SASL_USER}=\"{SASL_PASSWORD}\";"
    );
    let keystore = dir.join(KEYSTORE);
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={users}
listener.name.sasl_ssl.plain.sasl.jaas.config={users}
listener.name.sasl_ssl.ssl.keystore.type=PKCS12
listener.name.sasl_ssl.ssl.keystore.location={}
listener.name.sasl_ssl.ssl.keystore.password={STORE_PASSWORD}
listener.name.sasl_ssl.ssl.key.password={STORE_PASSWORD}
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
        keystore.display(),
        dir.join("data").display()
    )
}
