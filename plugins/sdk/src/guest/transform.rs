//! The world of transforms.

use super::{Slot, columns, types};
use crate::transform::{TransformPlugin, Transformer};

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/types", "../../wit/transform"],
        world: "millrace:transform/transform-plugin",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "millrace_plugin::guest::transform::bindings",
        with: {
            "millrace:types/types@0.1.0": crate::guest::types,
            "millrace:types/host@0.1.0": crate::guest::host,
        },
    });
}

use bindings::exports::millrace::transform::transform as wit;

thread_local! {
    static INSTANCE: Slot<dyn Transformer> = const { Slot::new(None) };
}

/// The exported functions, for the plugin `P`.
pub struct Component<P>(std::marker::PhantomData<P>);

impl<P: TransformPlugin> wit::Guest for Component<P> {
    fn info() -> types::PluginInfo {
        columns::info(P::Transformer::info())
    }

    fn open(config: String, offered: Vec<types::Field>) -> Result<wit::Signature, types::Error> {
        super::report_panics();
        let transformer = P::Transformer::open(&config, &columns::fields_in(offered)).map_err(columns::error)?;
        let signature = transformer.signature();
        INSTANCE.set(Some(Box::new(transformer)));
        Ok(wit::Signature {
            input: signature.input.into_iter().map(columns::wanted).collect(),
            output: columns::fields_out(signature.output),
        })
    }

    fn process(rows: Vec<types::Column>, total_rows: u32) -> Result<wit::Transformed, types::Error> {
        let process = |t: &mut dyn Transformer| t.process(&columns::borrow(&rows), total_rows);
        let out = INSTANCE.with(|instance| super::with(instance, process))?;
        Ok(wit::Transformed {
            columns: columns::columns_out(out.columns),
            origins: out.origins,
            rejected: columns::rejected(out.rejected),
        })
    }
}
