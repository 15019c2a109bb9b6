//! The program under test, as a user starts it: a child process, its lines, its exit code.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{paths, process};

/// Lines kept of a child; the first ones go when there are more.
const LINES_MAX: usize = 100_000;

#[derive(Default)]
struct Output(Mutex<Vec<String>>);

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running `millrace`. Killed when dropped.
pub struct Millrace {
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// How it ended, and all that it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: String,
}

impl Ended {
    /// Ended well.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.status.success(), "millrace ended with {}:\n{}", self.status, self.output);
        Ok(self)
    }

    /// Refused or failed by itself, and said all of `words`. One of several spellings is written `a|b`.
    pub fn failed(self, words: &[&str]) -> Result<Self> {
        ensure!(
            self.status.code().is_some_and(|code| code != 0),
            "millrace should have failed, ended with {}:\n{}",
            self.status,
            self.output
        );
        let said = self.output.to_lowercase();
        for word in words {
            let any = word.split('|').any(|spelling| said.contains(&spelling.to_lowercase()));
            ensure!(any, "millrace ended with {}, but did not say `{word}`:\n{}", self.status, self.output);
        }
        ensure!(!said.contains("panicked"), "millrace panicked:\n{}", self.output);
        Ok(self)
    }

    pub fn was_killed(&self) -> bool {
        std::os::unix::process::ExitStatusExt::signal(&self.status) == Some(libc::SIGKILL)
    }
}

impl Millrace {
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        Self::start_command(Command::new(paths::millrace()?), arguments, environment)
    }

    /// `millrace run FILE` that cannot write a file beyond so many bytes (`ulimit -f`): a disk that is full for all but
    /// small files, without the rights that mounting one would take.
    pub fn run_with_small_files(file: &Path, bytes_max: u64) -> Result<Self> {
        let mut command = Command::new(paths::millrace()?);
        let limit = libc::rlimit { rlim_cur: bytes_max, rlim_max: bytes_max };
        let set = move || {
            // SAFETY: both are async-signal-safe and take plain values. Ignored, the signal leaves a failed write.
            match unsafe { (libc::signal(libc::SIGXFSZ, libc::SIG_IGN), libc::setrlimit(libc::RLIMIT_FSIZE, &limit)) } {
                (_, 0) => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure runs between fork and exec and does nothing but the calls above.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, set) };
        let file = file.to_str().context("a path that is not UTF-8")?;
        Self::start_command(command, &["run", file, "--progress", "plain"], &[])
    }

    fn start_command(mut command: Command, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        command
            .args(arguments)
            .env("MILLRACE_LOG", "info")
            .env_remove("MILLRACE_FAILPOINT")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = process::spawn(command).context("starting millrace")?;
        let output = Arc::new(Output::default());
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(read_lines(stdout, &output));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(read_lines(stderr, &output));
        }
        Ok(Self { child, output, readers })
    }

    /// `millrace run FILE …`
    pub fn run(file: &Path, more: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let file = file.to_str().context("a path that is not UTF-8")?;
        let arguments: Vec<&str> =
            ["run", file, "--progress", "plain"].into_iter().chain(more.iter().copied()).collect();
        Self::start(&arguments, environment)
    }

    /// `millrace run FILE --until-end`, to its end.
    pub fn run_to_end(file: &Path, timeout: Duration) -> Result<Ended> {
        Self::run(file, &["--until-end"], &[])?.wait(timeout)
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self, timeout: Duration) -> Result<Ended> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(self.ended(status));
            }
            if started.elapsed() > timeout {
                process::signal(&self.child, libc::SIGKILL);
                let status = self.child.wait()?;
                let ended = self.ended(status);
                bail!("millrace did not end within {} s:\n{}", timeout.as_secs(), ended.output);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ended(&mut self, status: ExitStatus) -> Ended {
        for reader in self.readers.drain(..) {
            // a reader ends with its pipe
            let _ = reader.join();
        }
        Ended { status, output: self.output.lock().join("\n") }
    }

    /// Runs a pipeline and kills it after `life`: the instant is what such a test is about. It must not have ended before.
    pub fn run_and_kill(file: &Path, life: Duration) -> Result<()> {
        let millrace = Self::run(file, &[], &[])?;
        std::thread::sleep(life);
        let ended = millrace.kill()?;
        ensure!(ended.was_killed(), "it ended by itself with {}:\n{}", ended.status, ended.output);
        Ok(())
    }

    /// As `kill -9`.
    pub fn kill(mut self) -> Result<Ended> {
        process::signal(&self.child, libc::SIGKILL);
        let status = self.child.wait()?;
        Ok(self.ended(status))
    }

    /// SIGTERM: it should checkpoint, commit, and end well.
    pub fn terminate(self, timeout: Duration) -> Result<Ended> {
        process::signal(&self.child, libc::SIGTERM);
        self.wait(timeout)
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it has said this.
    pub fn wait_for_words(&mut self, words: &str, timeout: Duration) -> Result<()> {
        let output = Arc::clone(&self.output);
        self.while_running(&format!("the words `{words}`"), timeout, || {
            Ok(output.lock().iter().any(|line| line.contains(words)))
        })
    }

    /// Waits for the first line with these words in it; returns it.
    pub fn wait_for_line(&mut self, words: &str, timeout: Duration) -> Result<String> {
        self.wait_for_words(words, timeout)?;
        let lines = self.output.lock();
        lines.iter().find(|line| line.contains(words)).cloned().context("the line is gone")
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.output.lock().join("\n")
    }

    /// Waits for its end; the most memory that it held, as the kernel counts it, in bytes. [`Self::wait`] says how it ended.
    pub fn watch_peak_memory(&mut self, timeout: Duration) -> Result<u64> {
        let status = format!("/proc/{}/status", self.child.id());
        let mut peak_kib = 0;
        let child = &mut self.child;
        process::wait_for("millrace to end", timeout, || {
            let said = std::fs::read_to_string(&status).unwrap_or_default();
            // a process that has ended has none
            let high = said.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = high.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok());
            peak_kib = peak_kib.max(kib.unwrap_or_default());
            Ok(child.try_wait()?.is_some())
        })?;
        ensure!(peak_kib > 0, "the kernel does not say how much memory it holds");
        Ok(peak_kib << 10)
    }

    /// Waits for something outside; an error if the process ends first.
    pub fn while_running(
        &mut self,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let waited = process::wait_for(what, timeout, || {
            if look()? {
                return Ok(true);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("millrace ended with {status} before {what}");
            }
            Ok(false)
        });
        waited.with_context(|| format!("what millrace said:\n{}", self.output.lock().join("\n")))
    }
}

impl Drop for Millrace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            process::signal(&self.child, libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn read_lines(from: impl Read + Send + 'static, into: &Arc<Output>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut lines = into.lock();
            if lines.len() == LINES_MAX {
                lines.drain(..LINES_MAX / 2);
            }
            lines.push(text);
        }
    })
}
