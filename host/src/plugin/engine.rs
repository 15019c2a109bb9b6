//! One compiler and one clock for all plugins of the process.
//!
//! Owns the wasmtime engine, the thread that ticks its epoch (calls that run past their deadline trap at the next
//! check), the directory of compiled plugins, and the choice of where compiling happens. Never holds a running instance:
//! those belong to [`super::wasm`].

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Config, Engine, OptLevel};

use self::cache::Cache;
pub use self::compile::{Compiler, compile_as_child};
use super::artifact::Artifact;
use super::limits::{EPOCH_TICK_MS, WASM_STACK_BYTES_MAX};
use super::{PluginError, Result};

mod cache;
mod compile;

/// Compiles plugins and ends calls that take too long. Make one per process.
pub struct PluginEngine {
    engine: Engine,
    compiler: Compiler,
    cache: Option<Cache>,
    /// dropped with the engine, which ends the ticker
    _ticker: mpsc::Sender<()>,
}

impl PluginEngine {
    /// Compiles in this process. `cache_dir`: where compiled plugins are kept between runs; none = compile every time.
    pub fn new(cache_dir: Option<&Path>) -> Result<Self> {
        Self::with_compiler(cache_dir, Compiler::InProcess)
    }

    /// see [`PluginEngine::new`]
    pub fn with_compiler(cache_dir: Option<&Path>, compiler: Compiler) -> Result<Self> {
        let failed = |message: String| PluginError::Load { plugin: "engine".to_owned(), message };
        let engine =
            Engine::new(&config()).map_err(|e| failed(format!("cannot start the WebAssembly engine: {e:#}")))?;
        let (ticker, stop) = mpsc::channel::<()>();
        let ticked = engine.weak();
        thread::Builder::new()
            .name("plugin-ticker".to_owned())
            .spawn(move || {
                let tick = Duration::from_millis(EPOCH_TICK_MS);
                while let Err(mpsc::RecvTimeoutError::Timeout) = stop.recv_timeout(tick) {
                    match ticked.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            })
            .map_err(|e| failed(format!("cannot start the thread that ends calls past their deadline: {e}")))?;
        let cache = cache_dir.and_then(|dir| Cache::open(dir, &engine));
        Ok(Self { engine, compiler, cache, _ticker: ticker })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The component as machine code, from the cache if it is there and ours.
    pub(super) fn compile(&self, artifact: &Artifact) -> Result<Component> {
        if let Some(component) = self.cache.as_ref().and_then(|c| c.get(&self.engine, artifact.component())) {
            return Ok(component);
        }
        let load = |message: String| PluginError::Load { plugin: format!("`{}`", artifact.name()), message };
        let code = self.compiler.compile(&self.engine, artifact.component()).map_err(load)?;
        if let Some(cache) = &self.cache {
            cache.put(artifact.component(), &code);
        }
        // SAFETY: these bytes come from `Engine::precompile_component`, called by us or by a child of ours that runs
        // this program, and have been nowhere but in memory and in a pipe between the two.
        let component = unsafe { Component::deserialize(&self.engine, &code) };
        component.map_err(|e| load(format!("was compiled for another machine or engine: {e:#}")))
    }
}

/// Ticks of the epoch that a call may see; one more than the time asks for, since the first may be about to end.
pub(super) fn deadline_ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_millis().div_ceil(u128::from(EPOCH_TICK_MS));
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).min(u64::MAX / 2) + 1
}

fn config() -> Config {
    let mut config = Config::new();
    config
        // Calls are synchronous on our own threads; without this a trivial call takes three times as long.
        .concurrency_support(false)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(WASM_STACK_BYTES_MAX);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_shorter_than_asked() {
        assert_eq!(deadline_ticks(Duration::from_millis(EPOCH_TICK_MS)), 2);
        assert_eq!(deadline_ticks(Duration::from_millis(EPOCH_TICK_MS + 1)), 3);
        assert_eq!(deadline_ticks(Duration::MAX), u64::MAX / 2 + 1);
    }
}
