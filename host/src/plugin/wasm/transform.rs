//! Transform plugins: batch in, batch out.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::ArrayRef;
use millrace_core::schema::Schema;

use super::columns::{check_origins, check_rejected, lower_wanted, wanted};
use super::instance::{Instance, Prepared};
use crate::plugin::arrow::lift::lift_all;
use crate::plugin::arrow::lower::Lowered;
use crate::plugin::artifact::Artifact;
use crate::plugin::bindings::types::Encoding;
use crate::plugin::bindings::{self, transform};
use crate::plugin::engine::PluginEngine;
use crate::plugin::limits::PluginLimits;
use crate::plugin::{Info, Result, TransformSignature, Transformed, Transformer, TransformerFactory};

/// A compiled transform plugin under one set of limits.
pub struct WasmTransformFactory {
    prepared: Prepared<transform::GuestIndices>,
}

impl WasmTransformFactory {
    /// see [`super::WasmFactory::new`]
    pub fn new(engine: &Arc<PluginEngine>, name: &str, artifact: &Artifact, limits: PluginLimits) -> Result<Self> {
        Ok(Self { prepared: Prepared::new(engine, name, artifact, limits)? })
    }
}

impl TransformerFactory for WasmTransformFactory {
    fn info(&self) -> &Info {
        self.prepared.info()
    }

    fn digest(&self) -> &str {
        self.prepared.digest()
    }

    fn limits(&self) -> PluginLimits {
        self.prepared.limits()
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Transformer>> {
        let mut instance = self.prepared.instantiate()?;
        let offered = bindings::fields_to_wit(offered);
        let wit = instance.ask_at_startup("open", |guest, store| guest.call_open(store, config, &offered))?;
        let (signature, encodings) = instance.kept("open", signature(wit))?;
        Ok(Box::new(WasmTransformer { instance, signature, encodings }))
    }
}

fn signature(wit: transform::Signature) -> std::result::Result<(TransformSignature, Vec<Encoding>), String> {
    let (input, encodings) = wanted("input", wit.input)?;
    let output = bindings::schema_from_wit(wit.output);
    bindings::check_fields("output", output.fields.iter())?;
    Ok((TransformSignature { input, output }, encodings))
}

struct WasmTransformer {
    instance: Instance<transform::Guest>,
    signature: TransformSignature,
    encodings: Vec<Encoding>,
}

impl Transformer for WasmTransformer {
    fn signature(&self) -> &TransformSignature {
        &self.signature
    }

    fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed> {
        let lowered = lower_wanted(columns, &self.signature.input, &self.encodings, rows as usize);
        let lowered = self.instance.kept("process", lowered)?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        let wit = self.instance.ask("process", |guest, store| guest.call_process(store, &params, rows))?;
        let checked = checked(wit, &self.signature, rows as usize);
        self.instance.kept("process", checked)
    }

    fn take_counters(&mut self) -> Vec<(String, u64)> {
        self.instance.take_counters()
    }

    fn memory_bytes(&self) -> u64 {
        self.instance.memory_bytes()
    }
}

fn checked(
    wit: transform::Transformed,
    signature: &TransformSignature,
    rows: usize,
) -> std::result::Result<Transformed, String> {
    check_origins(&wit.origins, rows)?;
    let rejected = check_rejected(wit.rejected, rows)?;
    let refused: HashSet<u32> = rejected.iter().map(|r| r.row).collect();
    if let Some(row) = wit.origins.iter().find(|row| refused.contains(row)) {
        return Err(format!("rejected row {row}, and returned an output row for it"));
    }
    let columns = lift_all(wit.columns, &signature.output.fields, wit.origins.len())?;
    Ok(Transformed { columns, origins: wit.origins, rejected })
}
