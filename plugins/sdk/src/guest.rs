//! The component's side of the boundary: exports, imports, the panic hook; a module for each world.
//!
//! One component holds one plugin and one instance of it, so the instance lives in a thread-local (a component has one
//! thread). Only the `export_…!` macro, in the plugin's own crate, puts a world's description into the binary: a plugin
//! of one world carries nothing of another.

use std::cell::RefCell;

use crate::column;
use crate::host::Level;

pub mod aggregation;
mod columns;
pub mod join;
pub mod transform;

use aggregation::bindings::millrace::types::{host, types};

pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

pub fn count(name: &str, by: u64) {
    host::count(name, by);
}

/// A trap says only "unreachable": the message and the place have to be told before.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string())));
}

/// The instance, from `open` on.
type Slot<T> = RefCell<Option<Box<T>>>;

fn with<T: ?Sized, R>(
    instance: &Slot<T>,
    f: impl FnOnce(&mut T) -> Result<R, column::Error>,
) -> Result<R, types::Error> {
    match instance.borrow_mut().as_deref_mut() {
        Some(instance) => f(instance).map_err(columns::error),
        None => Err(types::Error::Internal("called before `open`".into())),
    }
}
