//! Apache Iceberg's own REST catalog server from its Maven jars, its tables known by a SQLite file, its warehouse on S3.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::s3::{BUCKET, REGION, S3};
use crate::{jars, paths, process};

const FOLDER: &str = "rest-catalog/libs";
const READY_TIMEOUT_S: u64 = 60;
const HEAP_MIB: u32 = 256;

#[derive(Debug)]
pub struct RestCatalog {
    dir: PathBuf,
    port: u16,
    /// for the server itself: endpoint, key, secret
    s3: [String; 3],
    /// none while killed
    child: Option<Child>,
}

impl RestCatalog {
    pub fn start(dir: &Path, s3: &S3) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let s3 = [s3.endpoint.clone(), s3.key.clone(), s3.secret.clone()];
        let mut catalog = Self { dir: dir.to_owned(), port, s3, child: None };
        std::fs::create_dir_all(dir)?;
        catalog.restart()?;
        Ok(catalog)
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn warehouse() -> String {
        format!("s3://{BUCKET}/warehouse")
    }

    /// As `kill -9` would; the tables stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::signal(&child, libc::SIGKILL);
            let _ = child.wait();
        }
    }

    /// Starts it again on the same tables and port, and waits until it serves.
    pub fn restart(&mut self) -> Result<()> {
        let pom = paths::workspace().join("tests/rest-catalog/pom.xml");
        let libs = jars::ensure("the Iceberg REST catalog, 150 MB", &pom, FOLDER)?;
        let log = self.dir.join("catalog.log");
        let out = File::create(&log)?;
        let [endpoint, key, secret] = &self.s3;
        let mut command = Command::new("java");
        command
            .args([format!("-Xmx{HEAP_MIB}m"), "-XX:+UseSerialGC".to_owned(), "-XX:TieredStopAtLevel=1".to_owned()])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg("-cp")
            .arg(jars::class_path(&libs))
            .arg("org.apache.iceberg.rest.RESTCatalogServer")
            .env("CATALOG_REST_PORT", self.port.to_string())
            .env("CATALOG_CATALOG__IMPL", "org.apache.iceberg.jdbc.JdbcCatalog")
            .env("CATALOG_URI", format!("jdbc:sqlite:{}", self.dir.join("catalog.db").display()))
            .env("CATALOG_JDBC_SCHEMA__VERSION", "V1")
            .env("CATALOG_WAREHOUSE", Self::warehouse())
            .env("CATALOG_IO__IMPL", "org.apache.iceberg.aws.s3.S3FileIO")
            .env("CATALOG_CLIENT_REGION", REGION)
            .env("CATALOG_S3_ENDPOINT", endpoint)
            .env("CATALOG_S3_PATH__STYLE__ACCESS", "true")
            .env("CATALOG_S3_ACCESS__KEY__ID", key)
            .env("CATALOG_S3_SECRET__ACCESS__KEY", secret)
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out);
        let port = self.port;
        let child = self.child.insert(process::spawn(command).context("starting java")?);
        process::wait_for("the REST catalog to start", Duration::from_secs(READY_TIMEOUT_S), || {
            if let Some(status) = child.try_wait()? {
                bail!("the REST catalog ended with {status}:\n{}", std::fs::read_to_string(&log)?);
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })
    }
}

impl Drop for RestCatalog {
    fn drop(&mut self) {
        self.kill();
    }
}
