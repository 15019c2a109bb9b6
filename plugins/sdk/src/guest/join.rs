//! The world of joins, a draft.

use super::{Slot, columns, types};
use crate::column;
use crate::join::{JoinPlugin, Joined, Joiner, Side};

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/types", "../../wit/join"],
        world: "millrace:join/join-plugin",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "millrace_plugin::guest::join::bindings",
        with: {
            "millrace:types/types@0.1.0": crate::guest::types,
            "millrace:types/host@0.1.0": crate::guest::host,
        },
    });
}

use bindings::exports::millrace::join::join as wit;

thread_local! {
    static INSTANCE: Slot<dyn Joiner> = const { Slot::new(None) };
}

fn with(f: impl FnOnce(&mut dyn Joiner) -> Result<Joined, column::Error>) -> Result<wit::Joined, types::Error> {
    let joined = INSTANCE.with(|instance| super::with(instance, f))?;
    Ok(wit::Joined { columns: columns::columns_out(joined.columns), origins: joined.origins })
}

/// The exported functions, for the plugin `P`.
pub struct Component<P>(std::marker::PhantomData<P>);

impl<P: JoinPlugin> wit::Guest for Component<P> {
    fn info() -> types::PluginInfo {
        columns::info(P::Joiner::info())
    }

    fn open(config: String, left: Vec<types::Field>, right: Vec<types::Field>) -> Result<wit::Signature, types::Error> {
        super::report_panics();
        let joiner = P::Joiner::open(&config, &columns::fields_in(left), &columns::fields_in(right));
        let joiner = joiner.map_err(columns::error)?;
        let signature = joiner.signature();
        INSTANCE.set(Some(Box::new(joiner)));
        Ok(wit::Signature {
            left: signature.left.into_iter().map(columns::wanted).collect(),
            right: signature.right.into_iter().map(columns::wanted).collect(),
            output: columns::fields_out(signature.output),
        })
    }

    fn pairs(
        left: Vec<types::Column>,
        right: Vec<types::Column>,
        total_left: u32,
        total_right: u32,
        left_rows: Vec<u32>,
        right_rows: Vec<u32>,
    ) -> Result<wit::Joined, types::Error> {
        let (left, right) = (columns::borrow(&left), columns::borrow(&right));
        with(|j| j.pairs(&left, &right, total_left, total_right, &left_rows, &right_rows))
    }

    fn unmatched(side: wit::Side, rows: Vec<types::Column>, total_rows: u32) -> Result<wit::Joined, types::Error> {
        let side = match side {
            wit::Side::Left => Side::Left,
            wit::Side::Right => Side::Right,
        };
        with(|j| j.unmatched(side, &columns::borrow(&rows), total_rows))
    }
}
