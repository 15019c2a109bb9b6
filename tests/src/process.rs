//! Children that never outlive us.
//!
//! A child gets its own process group, so that Ctrl-C in the terminal reaches only the test, and is killed by the kernel
//! when we die, however we die. That signal is tied to the *thread* that forked, and test threads come and go, so one
//! thread that never ends starts all of them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often something outside the process is looked at while it is waited for.
const LOOK_EVERY_MS: u64 = 10;

type Order = (Command, Sender<io::Result<Child>>);

pub fn spawn(mut command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // the one who asked may have panicked meanwhile
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let die = || {
            // SAFETY: `prctl` is async-signal-safe and takes plain numbers.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure runs between fork and exec and does nothing but the call above.
        unsafe { command.pre_exec(die) };
    }
    let (answer, given) = channel();
    keeper
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| io::Error::other("the thread that starts children is gone"))?;
    given.recv().map_err(|_| io::Error::other("the thread that starts children is gone"))?
}

/// Sends a signal to the child's whole group.
pub fn signal(child: &Child, signal: i32) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: `kill` takes plain numbers; the child is not reaped yet or its group is empty.
        unsafe { libc::kill(-pid, signal) };
    }
}

/// Waits for something outside this process to become true; `Err` after the timeout, or when `look` says so.
pub fn wait_for(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    loop {
        if look()? {
            return Ok(());
        }
        if started.elapsed() > timeout {
            bail!("waited {} s for {what}", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_millis(LOOK_EVERY_MS));
    }
}
