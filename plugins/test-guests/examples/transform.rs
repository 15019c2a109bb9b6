//! A transform for the host's own tests. `config` is `{"mode":"…"}`. In `normal` the first column says what becomes of a
//! row: `drop` none, `twice` two, `bad` refused, anything else one; `value` is doubled. Each other mode misbehaves.

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
    path: ["../../wit/types", "../../wit/transform"],
    world: "millrace:transform/transform-plugin",
    generate_all,
});

use exports::millrace::transform::transform::{Guest, Signature, Transformed};
use millrace::types::types::{
    Column, ColumnData, DataType, Encoding, Error, Field, PluginInfo, Rejected, VarBytes, Wanted,
};

thread_local! {
    static MODE: RefCell<String> = RefCell::default();
    static BATCHES: RefCell<u32> = const { RefCell::new(0) };
}

fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
    Field { name: name.to_owned(), data_type, nullable }
}

fn plain(data: ColumnData) -> Column {
    Column { data, validity: None }
}

fn strings(column: &Column) -> Vec<String> {
    let ColumnData::Utf8(v) = &column.data else { panic!("not plain strings") };
    let text = |ends: &[u32]| String::from_utf8(v.data[ends[0] as usize..ends[1] as usize].to_vec()).unwrap();
    v.offsets.windows(2).map(text).collect()
}

struct Component;

impl Guest for Component {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "test-transform".to_owned(),
            version: "1.2.3".to_owned(),
            config_schema: "{}".to_owned(),
            hints: vec![],
        }
    }

    fn open(config: String, _offered: Vec<Field>) -> Result<Signature, Error> {
        let mode = config.split('"').nth(3).unwrap_or("normal").to_owned();
        if mode == "bad-config" {
            return Err(Error::Config("no such mode".to_owned()));
        }
        let wanted = |field, optional| Wanted { field, encoding: Encoding::Plain, optional };
        let mut output = vec![field("word", DataType::Utf8, false), field("value", DataType::Float64, true)];
        if mode == "twice" {
            output.push(field("word", DataType::Utf8, false));
        }
        // Without columns only `total-rows` says how many rows there are.
        let input = match mode.as_str() {
            "no-input" => vec![],
            _ => vec![
                wanted(field("word", DataType::Utf8, false), false),
                wanted(field("value", DataType::Float64, true), false),
                wanted(field("bonus", DataType::Int64, false), true),
            ],
        };
        MODE.set(mode);
        Ok(Signature { input, output })
    }

    fn process(rows: Vec<Column>, total_rows: u32) -> Result<Transformed, Error> {
        let mode = MODE.with_borrow(Clone::clone);
        let batches = BATCHES.with_borrow_mut(|batches| {
            *batches += 1;
            *batches
        });
        match mode.as_str() {
            "loop" => loop {
                std::hint::black_box(0);
            },
            "internal" => return Err(Error::Internal("no idea".to_owned())),
            "batch-10000" => assert!(batches < 10_000, "that was one batch too many"),
            _ => {}
        }
        if mode == "no-input" {
            let columns = vec![
                plain(ColumnData::Utf8(VarBytes { offsets: vec![0; total_rows as usize + 1], data: vec![] })),
                plain(ColumnData::Float64(vec![0.0; total_rows as usize])),
            ];
            return Ok(Transformed { columns, origins: (0..total_rows).collect(), rejected: vec![] });
        }
        let words = strings(&rows[0]);
        assert_eq!(words.len(), total_rows as usize);
        let ColumnData::Float64(values) = &rows[1].data else { panic!("value is not float64") };
        let is_valid = |row: usize| rows[1].validity.as_ref().is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1);
        let mut origins = vec![];
        let mut rejected = vec![];
        for (row, word) in words.iter().enumerate() {
            let copies = match word.as_str() {
                "drop" => 0,
                "twice" => 2,
                word if mode.strip_prefix("panics-on-") == Some(word) => panic!("this row has no budget"),
                "bad" => {
                    rejected.push(Rejected { row: row as u32, reason: "bad word".to_owned() });
                    0
                }
                _ => 1,
            };
            origins.extend(std::iter::repeat_n(row as u32, copies));
        }
        let mut out = VarBytes { offsets: vec![0], data: vec![] };
        let mut doubled = vec![];
        let mut validity = vec![0_u8; origins.len().div_ceil(8)];
        for (i, origin) in origins.iter().enumerate() {
            let row = *origin as usize;
            out.data.extend_from_slice(words[row].as_bytes());
            out.offsets.push(out.data.len() as u32);
            doubled.push(values[row] * 2.0);
            if is_valid(row) {
                validity[i / 8] |= 1 << (i % 8);
            }
        }
        let mut columns =
            vec![plain(ColumnData::Utf8(out)), Column { data: ColumnData::Float64(doubled), validity: Some(validity) }];
        match mode.as_str() {
            "origins-decrease" => origins.reverse(),
            "origins-far" => *origins.last_mut().unwrap() = total_rows,
            "origins-short" => {
                origins.pop();
            }
            "reject-far" => rejected.push(Rejected { row: total_rows, reason: String::new() }),
            "reject-twice" => rejected.extend([0, 0].map(|row| Rejected { row, reason: String::new() })),
            "reject-and-return" => rejected.push(Rejected { row: origins[0], reason: String::new() }),
            "columns" => {
                columns.pop();
            }
            "kind" => columns[1] = plain(ColumnData::Int64(vec![1; origins.len()])),
            _ => {}
        }
        Ok(Transformed { columns, origins, rejected })
    }
}

export!(Component);
