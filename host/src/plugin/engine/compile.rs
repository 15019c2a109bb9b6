//! Compiling, in a process of its own: a component can be made so that the compiler takes hours or all memory, and that
//! must end in an error here, not in a dead host.
//!
//! The child is this program with a hidden command. It limits itself, reads the component from standard input and writes
//! machine code to standard output, or says in one line on standard error what is wrong with the component.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use wasmtime::Engine;

use crate::plugin::limits::{
    COMPILE_CPU_SECONDS_MAX, COMPILE_MEMORY_BYTES_MAX, COMPILE_THREADS_MAX, COMPILED_BYTES_MAX, TEXT_BYTES_MAX, cut,
};

/// The hidden command's name.
pub const CHILD_COMMAND: &str = "compile-plugin";

/// Exit code of a child that has said what is wrong.
const REFUSED: i32 = 2;

/// Where plugins are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// for tests and benchmarks, which are not the `millrace` program
    InProcess,
    /// `program` is `millrace`
    Child { program: PathBuf, memory_bytes: u64, cpu_seconds: u64 },
}

impl Compiler {
    /// A child with the limits that are right outside tests.
    pub fn child(program: PathBuf) -> Self {
        Self::Child { program, memory_bytes: COMPILE_MEMORY_BYTES_MAX, cpu_seconds: COMPILE_CPU_SECONDS_MAX }
    }

    pub(super) fn compile(&self, engine: &Engine, component: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::InProcess => precompile(engine, component),
            Self::Child { program, memory_bytes, cpu_seconds } => {
                let mut command = Command::new(program);
                command.arg(CHILD_COMMAND).arg(memory_bytes.to_string()).arg(cpu_seconds.to_string());
                let threads = thread::available_parallelism().map_or(1, usize::from).min(COMPILE_THREADS_MAX);
                command.env("RAYON_NUM_THREADS", threads.to_string());
                let (status, code, said) = piped(command, component)
                    .map_err(|e| format!("cannot start `{}` to compile: {e}", program.display()))?;
                if status.success() {
                    return Ok(code);
                }
                Err(ended(status, &said, *memory_bytes, *cpu_seconds))
            }
        }
    }
}

fn precompile(engine: &Engine, component: &[u8]) -> Result<Vec<u8>, String> {
    let code = engine.precompile_component(component).map_err(|e| format!("is not valid WebAssembly: {e:#}"))?;
    if code.len() > COMPILED_BYTES_MAX {
        let (has, most) = (code.len() >> 20, COMPILED_BYTES_MAX >> 20);
        return Err(format!("becomes {has} MiB of machine code, at most {most} MiB are possible"));
    }
    Ok(code)
}

/// Runs it with this input; its status and what it wrote to standard output and error.
fn piped(mut command: Command, input: &[u8]) -> std::io::Result<(ExitStatus, Vec<u8>, String)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            // A child that has died does not read on: its status says why.
            stdin.and_then(|mut stdin| stdin.write_all(input).ok())
        });
        child.wait_with_output()
    })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((output.status, output.stdout, cut(said, TEXT_BYTES_MAX)))
}

fn ended(status: ExitStatus, said: &str, memory_bytes: u64, cpu_seconds: u64) -> String {
    if status.code() == Some(REFUSED) {
        return said.to_owned();
    }
    let remedy = "build it with optimisation and without what it does not use";
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt as _;
        if status.signal() == Some(libc::SIGXCPU) {
            return format!("takes more than {cpu_seconds} s of processor time to compile; {remedy}");
        }
        let aborted = status.signal() == Some(libc::SIGABRT) || status.signal() == Some(libc::SIGSEGV);
        if aborted || said.contains("memory allocation") {
            return format!("takes more than {} MiB of memory to compile; {remedy}", memory_bytes >> 20);
        }
    }
    format!("could not be compiled: the compiler ended with {status}. {said}")
}

/// What the child does. An error is to be printed and to end it with exit code [`REFUSED`].
pub fn compile_as_child(memory_bytes: u64, cpu_seconds: u64) -> Result<(), String> {
    limit_this_process(memory_bytes, cpu_seconds).map_err(|e| format!("cannot limit the compiler: {e}"))?;
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).map_err(|e| format!("cannot be read: {e}"))?;
    let engine = Engine::new(&super::config()).map_err(|e| format!("cannot start the engine: {e:#}"))?;
    let code = precompile(&engine, &component)?;
    std::io::stdout().lock().write_all(&code).map_err(|e| format!("cannot hand over the code: {e}"))
}

#[cfg(unix)]
fn limit_this_process(memory_bytes: u64, cpu_seconds: u64) -> std::io::Result<()> {
    let limits = [(libc::RLIMIT_AS, memory_bytes), (libc::RLIMIT_CPU, cpu_seconds), (libc::RLIMIT_CORE, 0)];
    for (resource, most) in limits {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `now` is a valid structure that lives through the call.
        if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // At the soft limit of processor time comes SIGXCPU, at the hard one a kill that does not say why.
        let (soft, hard) = (most.min(now.rlim_max), most.saturating_add(1).min(now.rlim_max));
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: `limit` is a valid structure that lives through the call.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn limit_this_process(_: u64, _: u64) -> std::io::Result<()> {
    Err(std::io::Error::other("only possible on Unix"))
}
