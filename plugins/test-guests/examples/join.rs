//! A join for the host's own tests. `config` is `{"mode":"…"}`. In `normal` a pair gives one row with both `id`s and the
//! right side's `label`, unless the ids add up to an odd number; each other mode misbehaves.

// A linker of native libraries does not take the names of a component's exports.
#![cfg(target_arch = "wasm32")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::undocumented_unsafe_blocks,
    reason = "a guest that fails is what the tests are about"
)]

use std::cell::RefCell;

wit_bindgen::generate!({
    path: ["../../wit/types", "../../wit/join"],
    world: "millrace:join/join-plugin",
    generate_all,
});

use exports::millrace::join::join::{Guest, Joined, Side, Signature};
use millrace::types::types::{Column, ColumnData, DataType, Encoding, Error, Field, PluginInfo, VarBytes, Wanted};

thread_local! {
    static MODE: RefCell<String> = RefCell::default();
}

fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
    Field { name: name.to_owned(), data_type, nullable }
}

fn ids(columns: &[Column]) -> &[i64] {
    let ColumnData::Int64(ids) = &columns[0].data else { panic!("id is not int64") };
    ids
}

/// Null where there is none.
fn nullable(values: &[Option<i64>]) -> Column {
    let mut validity = vec![0_u8; values.len().div_ceil(8)];
    for (row, _) in values.iter().enumerate().filter(|(_, value)| value.is_some()) {
        validity[row / 8] |= 1 << (row % 8);
    }
    let data = ColumnData::Int64(values.iter().map(|value| value.unwrap_or_default()).collect());
    Column { data, validity: Some(validity) }
}

struct Row {
    left: Option<i64>,
    right: Option<i64>,
    label: Vec<u8>,
}

fn joined(rows: Vec<Row>, mut origins: Vec<u32>, total: usize) -> Joined {
    let mut label = VarBytes { offsets: vec![0], data: vec![] };
    for row in &rows {
        label.data.extend_from_slice(&row.label);
        label.offsets.push(label.data.len() as u32);
    }
    let side = |value: fn(&Row) -> Option<i64>| nullable(&rows.iter().map(value).collect::<Vec<_>>());
    let mut columns =
        vec![side(|row| row.left), side(|row| row.right), Column { data: ColumnData::Utf8(label), validity: None }];
    MODE.with_borrow(|mode| match mode.as_str() {
        "origins-decrease" => origins.reverse(),
        "origins-far" => *origins.last_mut().unwrap() = total as u32,
        "columns" => columns.truncate(1),
        _ => {}
    });
    Joined { columns, origins }
}

struct Component;

impl Guest for Component {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "test-join".to_owned(),
            version: "1.2.3".to_owned(),
            config_schema: "{}".to_owned(),
            hints: vec![],
        }
    }

    fn open(config: String, left: Vec<Field>, right: Vec<Field>) -> Result<Signature, Error> {
        if left.iter().all(|f| f.name != "id") || right.iter().all(|f| f.name != "id") {
            return Err(Error::Input("both sides need an `id`".to_owned()));
        }
        MODE.set(config.split('"').nth(3).unwrap_or("normal").to_owned());
        let wanted = |name, data_type, optional| Wanted {
            field: field(name, data_type, false),
            encoding: Encoding::Plain,
            optional,
        };
        Ok(Signature {
            left: vec![wanted("id", DataType::Int64, false)],
            right: vec![wanted("id", DataType::Int64, false), wanted("label", DataType::Utf8, true)],
            output: vec![
                field("left", DataType::Int64, true),
                field("right", DataType::Int64, true),
                field("label", DataType::Utf8, false),
            ],
        })
    }

    fn pairs(
        left: Vec<Column>,
        right: Vec<Column>,
        total_left: u32,
        total_right: u32,
        left_rows: Vec<u32>,
        right_rows: Vec<u32>,
    ) -> Result<Joined, Error> {
        let label = |row: usize| match &right[1].data {
            ColumnData::Utf8(v) => v.data[v.offsets[row] as usize..v.offsets[row + 1] as usize].to_vec(),
            _ => b"none".to_vec(),
        };
        assert_eq!((ids(&left).len(), ids(&right).len()), (total_left as usize, total_right as usize));
        let (mut rows, mut origins) = (vec![], vec![]);
        for (pair, (l, r)) in left_rows.iter().zip(&right_rows).enumerate() {
            let (l, r) = (*l as usize, *r as usize);
            let (left, right) = (ids(&left)[l], ids(&right)[r]);
            if (left + right) % 2 == 0 {
                rows.push(Row { left: Some(left), right: Some(right), label: label(r) });
                origins.push(pair as u32);
            }
        }
        Ok(joined(rows, origins, left_rows.len()))
    }

    fn unmatched(side: Side, rows: Vec<Column>, total_rows: u32) -> Result<Joined, Error> {
        let row = |id: &i64| match side {
            Side::Left => Row { left: Some(*id), right: None, label: vec![] },
            Side::Right => Row { left: None, right: Some(*id), label: vec![] },
        };
        assert_eq!(ids(&rows).len(), total_rows as usize);
        Ok(joined(ids(&rows).iter().map(row).collect(), (0..total_rows).collect(), total_rows as usize))
    }
}

export!(Component);
