//! Join plugins: rows of pairs that the host has matched.

use std::sync::Arc;

use arrow_array::ArrayRef;
use millrace_core::schema::Schema;

use super::columns::{check_origins, lower_wanted, wanted};
use super::instance::{Instance, Prepared};
use crate::plugin::arrow::lift::lift_all;
use crate::plugin::arrow::lower::Lowered;
use crate::plugin::artifact::Artifact;
use crate::plugin::bindings::types::Encoding;
use crate::plugin::bindings::{self, join};
use crate::plugin::engine::PluginEngine;
use crate::plugin::limits::PluginLimits;
use crate::plugin::{Info, JoinSide, JoinSignature, Joined, Joiner, JoinerFactory, Result};

/// A compiled join plugin under one set of limits.
pub struct WasmJoinFactory {
    prepared: Prepared<join::GuestIndices>,
}

impl WasmJoinFactory {
    /// see [`super::WasmFactory::new`]
    pub fn new(engine: &Arc<PluginEngine>, name: &str, artifact: &Artifact, limits: PluginLimits) -> Result<Self> {
        Ok(Self { prepared: Prepared::new(engine, name, artifact, limits)? })
    }
}

impl JoinerFactory for WasmJoinFactory {
    fn info(&self) -> &Info {
        self.prepared.info()
    }

    fn digest(&self) -> &str {
        self.prepared.digest()
    }

    fn open(&self, config: &str, left: &Schema, right: &Schema) -> Result<Box<dyn Joiner>> {
        let mut instance = self.prepared.instantiate()?;
        let (left, right) = (bindings::fields_to_wit(left), bindings::fields_to_wit(right));
        let wit = instance.ask_at_startup("open", |guest, store| guest.call_open(store, config, &left, &right))?;
        let (signature, encodings) = instance.kept("open", signature(wit))?;
        Ok(Box::new(WasmJoiner { instance, signature, encodings }))
    }
}

fn signature(wit: join::Signature) -> std::result::Result<(JoinSignature, [Vec<Encoding>; 2]), String> {
    let (left, left_encodings) = wanted("left", wit.left)?;
    let (right, right_encodings) = wanted("right", wit.right)?;
    let output = bindings::schema_from_wit(wit.output);
    bindings::check_fields("output", output.fields.iter())?;
    Ok((JoinSignature { left, right, output }, [left_encodings, right_encodings]))
}

struct WasmJoiner {
    instance: Instance<join::Guest>,
    signature: JoinSignature,
    /// left, right
    encodings: [Vec<Encoding>; 2],
}

impl WasmJoiner {
    fn lower<'a>(&self, side: JoinSide, columns: &'a [Option<ArrayRef>], rows: usize) -> Lowering<'a> {
        let [left, right] = &self.encodings;
        match side {
            JoinSide::Left => lower_wanted(columns, &self.signature.left, left, rows),
            JoinSide::Right => lower_wanted(columns, &self.signature.right, right, rows),
        }
    }

    fn checked(&mut self, call: &'static str, wit: join::Joined, total: usize) -> Result<Joined> {
        let check = || {
            check_origins(&wit.origins, total)?;
            lift_all(wit.columns, &self.signature.output.fields, wit.origins.len())
        };
        let columns = check();
        let columns = self.instance.kept(call, columns)?;
        Ok(Joined { columns, origins: wit.origins })
    }
}

/// Each pair names a row of either side.
fn check_pairs(left: &[u32], right: &[u32], total_left: u32, total_right: u32) -> std::result::Result<(), String> {
    if left.len() != right.len() {
        return Err(format!("the host has {} left rows for {} right rows", left.len(), right.len()));
    }
    for (side, rows, total) in [("left", left, total_left), ("right", right, total_right)] {
        if let Some(row) = rows.iter().find(|row| **row >= total) {
            return Err(format!("the host has a pair with {side} row {row}, there are {total}"));
        }
    }
    Ok(())
}

type Lowering<'a> = std::result::Result<Vec<Lowered<'a>>, String>;

impl Joiner for WasmJoiner {
    fn signature(&self) -> &JoinSignature {
        &self.signature
    }

    fn pairs(
        &mut self,
        left: &[Option<ArrayRef>],
        right: &[Option<ArrayRef>],
        total_left: u32,
        total_right: u32,
        left_rows: &[u32],
        right_rows: &[u32],
    ) -> Result<Joined> {
        let lower = || {
            check_pairs(left_rows, right_rows, total_left, total_right)?;
            let left = self.lower(JoinSide::Left, left, total_left as usize)?;
            Ok((left, self.lower(JoinSide::Right, right, total_right as usize)?))
        };
        let lowered = lower();
        let (left, right) = self.instance.kept("pairs", lowered)?;
        let left: Vec<_> = left.iter().map(Lowered::param).collect();
        let right: Vec<_> = right.iter().map(Lowered::param).collect();
        let wit = self.instance.ask("pairs", |guest, store| {
            guest.call_pairs(store, &left, &right, total_left, total_right, left_rows, right_rows)
        })?;
        self.checked("pairs", wit, left_rows.len())
    }

    fn unmatched(&mut self, side: JoinSide, columns: &[Option<ArrayRef>], rows: u32) -> Result<Joined> {
        let lowered = self.lower(side, columns, rows as usize);
        let lowered = self.instance.kept("unmatched", lowered)?;
        let params: Vec<_> = lowered.iter().map(Lowered::param).collect();
        let wit_side = match side {
            JoinSide::Left => join::Side::Left,
            JoinSide::Right => join::Side::Right,
        };
        let wit =
            self.instance.ask("unmatched", |guest, store| guest.call_unmatched(store, wit_side, &params, rows))?;
        self.checked("unmatched", wit, rows as usize)
    }

    fn take_counters(&mut self) -> Vec<(String, u64)> {
        self.instance.take_counters()
    }
}
