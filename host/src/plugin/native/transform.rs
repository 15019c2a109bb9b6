//! Transforms of the SDK, natively.

use std::marker::PhantomData;

use arrow_array::ArrayRef;
use millrace_core::schema::Schema;
use millrace_plugin::column::ColumnRef;
use millrace_plugin::transform::{TransformPlugin, Transformer as SdkTransformer};

use super::columns::{borrowed, columns_out, schema_out, wanted_out};
use super::{broke, fields_in, info_out, refused, rejected_out};
use crate::plugin::{Info, Result, TransformSignature, Transformed, Transformer, TransformerFactory};

/// Makes native instances of the transform `P`.
pub struct NativeTransformFactory<P> {
    info: Info,
    digest: String,
    plugin: PhantomData<fn() -> P>,
}

impl<P: TransformPlugin> NativeTransformFactory<P> {
    /// `name` tells it apart from components, in place of a digest.
    pub fn new(name: &str) -> Self {
        Self { info: info_out(P::Transformer::info()), digest: format!("native:{name}"), plugin: PhantomData }
    }
}

impl<P: TransformPlugin> TransformerFactory for NativeTransformFactory<P> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn open(&self, config: &str, offered: &Schema) -> Result<Box<dyn Transformer>> {
        let plugin = self.info.name.clone();
        let transformer = P::Transformer::open(config, &fields_in(offered)).map_err(|e| refused(&plugin, &e))?;
        let signature = transformer.signature();
        let signature = TransformSignature { input: wanted_out(signature.input), output: schema_out(signature.output) };
        Ok(Box::new(Native { plugin, transformer, signature }))
    }
}

struct Native<T> {
    plugin: String,
    transformer: T,
    signature: TransformSignature,
}

impl<T: SdkTransformer> Transformer for Native<T> {
    fn signature(&self) -> &TransformSignature {
        &self.signature
    }

    fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed> {
        let broke = |message: String| broke(&self.plugin, "process", message);
        let process = |columns: &[ColumnRef<'_>]| self.transformer.process(columns, rows);
        let out = borrowed(columns.iter().map(Option::as_ref), process).map_err(|e| broke(e.to_owned()))?;
        let out = out.map_err(|e| broke(e.to_string()))?;
        let columns = columns_out(out.columns, &self.signature.output).map_err(broke)?;
        Ok(Transformed { columns, origins: out.origins, rejected: rejected_out(out.rejected) })
    }
}
