//! The plugin of a transform, natively: it gives the ids that it gets, until it dies.

use std::sync::{Arc, Weak};

use arrow_array::ArrayRef;
use millrace_core::schema::{DataType, Field, Schema};

use super::process::{INJECTED, Process};
use crate::plugin::{
    Info, PluginError, Result, TransformSignature, Transformed, Transformer, TransformerFactory, Wanted,
};

/// The transform.
pub const UNIQUE: &str = "unique";
pub struct StepsFactory {
    info: Info,
    process: Weak<Process>,
    falls_percent: usize,
}

struct Same {
    signature: TransformSignature,
    process: Weak<Process>,
    falls_percent: usize,
    /// what failed is tried once more: it survives its first call
    is_first: bool,
    dead: bool,
}

/// The columns that it gives.
pub fn output() -> Schema {
    Schema::new(vec![Field::new("id", DataType::Long, false)])
}

impl StepsFactory {
    pub fn new(process: &Arc<Process>, falls_percent: usize) -> Self {
        let info = Info { name: UNIQUE.to_owned(), version: "1.0.0".to_owned(), config_schema: "{}".to_owned() };
        Self { info, process: Arc::downgrade(process), falls_percent }
    }
}

impl TransformerFactory for StepsFactory {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        "native:unique"
    }

    fn open(&self, _: &str, _: &Schema) -> Result<Box<dyn Transformer>> {
        let wanted = |field: &Field| Wanted { field: field.clone(), dictionary: false, optional: false };
        let signature = TransformSignature { input: output().fields.iter().map(wanted).collect(), output: output() };
        let (process, falls_percent) = (Weak::clone(&self.process), self.falls_percent);
        Ok(Box::new(Same { signature, process, falls_percent, is_first: true, dead: false }))
    }
}

impl Transformer for Same {
    fn signature(&self) -> &TransformSignature {
        &self.signature
    }

    fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed> {
        assert!(!self.dead, "a dead instance was called");
        let process = self.process.upgrade().ok_or_else(|| trap("the process is gone"))?;
        // most are to get as far as giving rows that count
        let on_trial = std::thread::current().name().is_some_and(|name| name.starts_with("beside-"));
        let percent = if on_trial { self.falls_percent / 10 } else { self.falls_percent };
        if !std::mem::take(&mut self.is_first) && process.draw(|random| random.percent(percent)) {
            self.dead = true;
            return Err(trap("out of memory"));
        }
        Ok(Transformed {
            columns: columns.iter().flatten().cloned().collect(),
            origins: (0..rows).collect(),
            rejected: Vec::new(),
        })
    }
}

fn trap(message: &str) -> PluginError {
    let message = format!("{INJECTED}: {message}");
    PluginError::Trap {
        plugin: UNIQUE.to_owned(),
        call: "process",
        message,
        guest_log: Vec::new(),
        out_of_memory: true,
    }
}
