//! The world of aggregations; the types that all worlds share are generated here, too.

use std::cell::RefCell;

use super::{Slot, columns, types};
use crate::aggregation::{Accumulator, Origin, Plugin, Window};
use crate::column;
use crate::migrate::Own;
use crate::value::Timestamptz;

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/types", "../../wit/aggregation"],
        world: "millrace:aggregation/aggregation-plugin",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "millrace_plugin::guest::aggregation::bindings",
        generate_all,
    });
}

use bindings::exports::millrace::aggregation::aggregation as wit;

thread_local! {
    static INSTANCE: Slot<dyn Accumulator> = const { Slot::new(None) };
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

fn with<R>(f: impl FnOnce(&mut dyn Accumulator) -> Result<R, column::Error>) -> Result<R, types::Error> {
    INSTANCE.with(|instance| super::with(instance, f))
}

/// The exported functions, for the plugin `P`.
pub struct Component<P>(std::marker::PhantomData<P>);

impl<P: Plugin> wit::Guest for Component<P> {
    fn info() -> types::PluginInfo {
        columns::info(P::Accumulator::info())
    }

    fn open(config: String, offered: Vec<types::Field>) -> Result<wit::Signature, types::Error> {
        super::report_panics();
        let accumulator = P::Accumulator::open(&config, &columns::fields_in(offered)).map_err(columns::error)?;
        let signature = accumulator.signature();
        OWN.set(Some(Own::new(P::Accumulator::info(), &config, signature.state.clone())));
        INSTANCE.set(Some(Box::new(accumulator)));
        Ok(wit::Signature {
            input: signature.input.into_iter().map(columns::wanted).collect(),
            state: columns::fields_out(signature.state),
            output: columns::fields_out(signature.output),
            ordered: signature.ordered,
        })
    }

    fn update(
        rows: Vec<types::Column>,
        groups: Vec<u32>,
        total_groups: u32,
    ) -> Result<Vec<types::Rejected>, types::Error> {
        with(|a| a.update(&columns::borrow(&rows), &groups, total_groups)).map(columns::rejected)
    }

    fn combine(sources: Vec<u32>, targets: Vec<u32>) -> Result<(), types::Error> {
        with(|a| a.combine(&sources, &targets))
    }

    fn merge(state: Vec<types::Column>, groups: Vec<u32>, total_groups: u32) -> Result<(), types::Error> {
        with(|a| a.merge(&columns::borrow(&state), &groups, total_groups))
    }

    fn state(groups: Vec<u32>, cursor: u64, max_bytes: u64) -> Result<wit::StateChunk, types::Error> {
        let chunk = with(|a| a.state(&groups, cursor, max_bytes))?;
        Ok(wit::StateChunk { columns: columns::columns_out(chunk.columns), groups: chunk.groups, next: chunk.next })
    }

    fn evaluate(groups: Vec<u32>, windows: Vec<wit::Window>, is_final: bool) -> Result<wit::OutputRows, types::Error> {
        let windows: Vec<Window> = windows
            .into_iter()
            .map(|w| Window { start: Timestamptz(w.start), end: Timestamptz(w.end), is_final })
            .collect();
        let rows = with(|a| a.evaluate(&groups, &windows))?;
        Ok(wit::OutputRows { columns: columns::columns_out(rows.columns), groups: rows.groups })
    }

    fn reset(groups: Vec<u32>) -> Result<(), types::Error> {
        with(|a| a.reset(&groups))
    }

    fn size() -> u64 {
        with(|a| Ok(a.size())).unwrap_or_default()
    }

    fn migrate(origin: wit::Origin, state: Vec<types::Column>) -> Result<Option<Vec<types::Column>>, types::Error> {
        let origin = Origin {
            name: origin.name,
            version: origin.version,
            config: origin.config,
            state: columns::fields_in(origin.state),
        };
        if OWN.with_borrow(|own| own.as_ref().is_some_and(|own| own.is(&origin))) {
            return Ok(Some(state));
        }
        Ok(with(|a| a.migrate(&origin, &columns::borrow(&state)))?.map(columns::columns_out))
    }
}
