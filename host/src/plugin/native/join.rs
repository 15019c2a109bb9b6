//! Joins of the SDK, natively.

use std::marker::PhantomData;

use arrow_array::ArrayRef;
use millrace_core::schema::Schema;
use millrace_plugin::column::{ColumnRef, Error};
use millrace_plugin::join::{JoinPlugin, Joined as SdkJoined, Joiner as SdkJoiner, Side};

use super::columns::{borrowed, columns_out, schema_out, wanted_out};
use super::{broke, fields_in, info_out, refused};
use crate::plugin::{Info, JoinSide, JoinSignature, Joined, Joiner, JoinerFactory, Result};

/// Makes native instances of the join `P`.
pub struct NativeJoinFactory<P> {
    info: Info,
    digest: String,
    plugin: PhantomData<fn() -> P>,
}

impl<P: JoinPlugin> NativeJoinFactory<P> {
    /// `name` tells it apart from components, in place of a digest.
    pub fn new(name: &str) -> Self {
        Self { info: info_out(P::Joiner::info()), digest: format!("native:{name}"), plugin: PhantomData }
    }
}

impl<P: JoinPlugin> JoinerFactory for NativeJoinFactory<P> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn open(&self, config: &str, left: &Schema, right: &Schema) -> Result<Box<dyn Joiner>> {
        let plugin = self.info.name.clone();
        let joiner = P::Joiner::open(config, &fields_in(left), &fields_in(right)).map_err(|e| refused(&plugin, &e))?;
        let signature = joiner.signature();
        let signature = JoinSignature {
            left: wanted_out(signature.left),
            right: wanted_out(signature.right),
            output: schema_out(signature.output),
        };
        Ok(Box::new(Native { plugin, joiner, signature }))
    }
}

struct Native<J> {
    plugin: String,
    joiner: J,
    signature: JoinSignature,
}

impl<J> Native<J> {
    fn joined(
        &self,
        call: &'static str,
        joined: std::result::Result<std::result::Result<SdkJoined, Error>, &'static str>,
    ) -> Result<Joined> {
        let broke = |message: String| broke(&self.plugin, call, message);
        let joined = joined.map_err(|e| broke(e.to_owned()))?.map_err(|e| broke(e.to_string()))?;
        let columns = columns_out(joined.columns, &self.signature.output).map_err(broke)?;
        Ok(Joined { columns, origins: joined.origins })
    }
}

impl<J: SdkJoiner> Joiner for Native<J> {
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
        let joined = borrowed(left.iter().map(Option::as_ref), |left: &[ColumnRef<'_>]| {
            borrowed(right.iter().map(Option::as_ref), |right: &[ColumnRef<'_>]| {
                self.joiner.pairs(left, right, total_left, total_right, left_rows, right_rows)
            })
        });
        self.joined("pairs", joined.and_then(|joined| joined))
    }

    fn unmatched(&mut self, side: JoinSide, columns: &[Option<ArrayRef>], rows: u32) -> Result<Joined> {
        let side = match side {
            JoinSide::Left => Side::Left,
            JoinSide::Right => Side::Right,
        };
        let unmatched = |columns: &[ColumnRef<'_>]| self.joiner.unmatched(side, columns, rows);
        let joined = borrowed(columns.iter().map(Option::as_ref), unmatched);
        self.joined("unmatched", joined)
    }
}
