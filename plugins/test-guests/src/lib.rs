//! A guest for the host's own tests, written against the WIT and not the SDK, since it has to be able to break every
//! rule. `config` is `{"mode":"…"}`: `normal` counts and adds up, `echo` keeps the columns it is given, each other mode
//! misbehaves in the one way that its name says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::undocumented_unsafe_blocks,
    reason = "a guest that fails is what the tests are about"
)]

use std::cell::RefCell;

wit_bindgen::generate!({
    path: ["../../wit/types", "../../wit/aggregation"],
    world: "millrace:aggregation/aggregation-plugin",
    generate_all,
});

use exports::millrace::aggregation::aggregation::{Guest, Origin, OutputRows, Signature, StateChunk, Window};
use millrace::types::host::{self, Level};
use millrace::types::types::{
    Column, ColumnData, DataType, Encoding, Error, Field, PluginInfo, Rejected, VarBytes, Wanted,
};

#[derive(Default)]
struct Plugin {
    mode: String,
    slots: Vec<Slot>,
    /// `echo`
    kept: Vec<Column>,
    kept_groups: Vec<u32>,
    hoard: Vec<Vec<u8>>,
    dice: u64,
}

#[derive(Clone, Default)]
struct Slot {
    count: i64,
    clicks: i64,
    sum: f64,
}

thread_local! {
    static PLUGIN: RefCell<Plugin> = RefCell::default();
}

fn with<T>(f: impl FnOnce(&mut Plugin) -> T) -> T {
    PLUGIN.with_borrow_mut(f)
}

fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
    Field { name: name.to_owned(), data_type, nullable }
}

fn plain(data: ColumnData) -> Column {
    Column { data, validity: None }
}

fn is_valid(column: &Column, row: usize) -> bool {
    column.validity.as_ref().is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1)
}

/// Calls `f` with each row's string.
fn each_string(column: &Column, mut f: impl FnMut(usize, &[u8])) {
    match &column.data {
        ColumnData::Utf8(v) => {
            for row in 0..v.offsets.len() - 1 {
                f(row, &v.data[v.offsets[row] as usize..v.offsets[row + 1] as usize]);
            }
        }
        ColumnData::Utf8Dictionary(d) => {
            let v = &d.values;
            for (row, key) in d.keys.iter().enumerate() {
                let key = *key as usize;
                f(row, &v.data[v.offsets[key] as usize..v.offsets[key + 1] as usize]);
            }
        }
        other => panic!("not strings: {other:?}"),
    }
}

#[allow(unconditional_recursion, reason = "the mode is called that")]
fn recurse(n: u64) -> u64 {
    let padding = std::hint::black_box([n; 64]);
    recurse(n + 1) + padding[(n % 64) as usize]
}

/// What a mode does on the way into any call.
fn enter(call: &str) {
    let mode = with(|p| p.mode.clone());
    match mode.strip_suffix(call) {
        Some("loop-in-") => forever(),
        Some("panic-in-") => panic!("no {call} today"),
        _ => {}
    }
    if mode == "panic-at-random" {
        // xorshift
        let dice = with(|p| {
            p.dice ^= p.dice << 13;
            p.dice ^= p.dice >> 7;
            p.dice ^= p.dice << 17;
            p.dice
        });
        assert!(dice % 8 != 0, "bad luck in {call}");
    }
}

fn forever() -> ! {
    loop {
        std::hint::black_box(0);
    }
}

/// `info` has no configuration: the tests write into these bytes of the binary.
static INFO_MODE: [u8; 16] = *b"info-mode: good ";

fn info_mode() -> &'static [u8] {
    &std::hint::black_box(&INFO_MODE)[11..15]
}

/// `panics-on-KIND`, until that is mended.
fn is_poison(mode: &str, kind: &[u8]) -> bool {
    cfg!(not(feature = "mended")) && mode.strip_prefix("panics-on-").is_some_and(|poison| poison.as_bytes() == kind)
}

struct Component;

impl Component {
    fn good_info() -> PluginInfo {
        PluginInfo {
            name: "test-guest".to_owned(),
            version: "1.2.3".to_owned(),
            config_schema: "{}".to_owned(),
            hints: vec![],
        }
    }
}

impl Guest for Component {
    fn info() -> PluginInfo {
        match info_mode() {
            b"loop" => forever(),
            b"vast" => return PluginInfo { name: "x".repeat(70 << 20), ..Self::good_info() },
            b"none" => return PluginInfo { name: String::new(), ..Self::good_info() },
            _ => {}
        }
        Self::good_info()
    }

    fn open(config: String, offered: Vec<Field>) -> Result<Signature, Error> {
        std::panic::set_hook(Box::new(|info| host::log(Level::Error, &info.to_string())));
        let mode = config.split('"').nth(3).unwrap_or("normal").to_owned();
        let encoding = match mode.as_str() {
            "plain" => Encoding::Plain,
            "dictionary" => Encoding::Dictionary,
            _ => Encoding::Either,
        };
        match mode.as_str() {
            "bad-config" => return Err(Error::Config("`mode` must not be bad-config".to_owned())),
            "bad-input" => return Err(Error::Input("no column `user`".to_owned())),
            _ => {}
        }
        with(|p| {
            p.mode = mode.clone();
            p.dice = 0x2545_f491_4f6c_dd1d;
        });
        enter("open");
        if mode == "echo" {
            return Ok(Signature { input: vec![], state: offered, output: vec![], ordered: false });
        }
        let wanted = |field, encoding, optional| Wanted { field, encoding, optional };
        let mut state = vec![
            field("count", DataType::Int64, false),
            field("clicks", DataType::Int64, false),
            field("sum", DataType::Float64, false),
        ];
        if mode == "twice" {
            state.push(field("count", DataType::Int64, false));
        }
        Ok(Signature {
            input: vec![
                wanted(field("kind", DataType::Utf8, true), encoding, false),
                wanted(field("value", DataType::Float64, true), Encoding::Plain, false),
                wanted(field("bonus", DataType::Int64, false), Encoding::Plain, true),
            ],
            state,
            output: vec![
                field("count", DataType::Int64, false),
                field("clicks", DataType::Int64, false),
                field("sum", DataType::Float64, false),
                field("mean", DataType::Float64, true),
                field("label", DataType::Utf8, false),
            ],
            ordered: false,
        })
    }

    fn update(rows: Vec<Column>, groups: Vec<u32>, total_groups: u32) -> Result<Vec<Rejected>, Error> {
        enter("update");
        with(|p| {
            let mut rejected = vec![];
            match p.mode.as_str() {
                "nothing" => return Ok(vec![]),
                #[cfg(target_arch = "wasm32")]
                "trap" => core::arch::wasm32::unreachable(),
                "panic" => panic!("campaign 42 has no budget"),
                "loop" => forever(),
                "stack" => {
                    std::hint::black_box(recurse(0));
                }
                "memory" => loop {
                    p.hoard.push(vec![1; 1 << 20]);
                },
                "internal" => return Err(Error::Internal("lost my marbles".to_owned())),
                "log" => {
                    for i in 0..10_000 {
                        host::log(Level::Info, &format!("row {i}"));
                        host::count("rows", 2);
                        host::count(&format!("name {i}"), 1);
                    }
                }
                "reject" => rejected.push(Rejected { row: 1, reason: "negative".to_owned() }),
                "reject-far" => rejected.push(Rejected { row: groups.len() as u32, reason: String::new() }),
                "reject-twice" => {
                    rejected.extend([0, 0].map(|row| Rejected { row, reason: String::new() }));
                }
                "plain" => assert!(matches!(rows[0].data, ColumnData::Utf8(_))),
                "dictionary" => assert!(matches!(rows[0].data, ColumnData::Utf8Dictionary(_))),
                _ => {}
            }
            p.slots.resize(p.slots.len().max(total_groups as usize), Slot::default());
            each_string(&rows[0], |row, kind| {
                match (p.mode.as_str(), kind) {
                    ("poison", b"panic") => panic!("this row has no budget"),
                    (mode, kind) if is_poison(mode, kind) => panic!("this row has no budget"),
                    ("poison", b"loop") => forever(),
                    _ => {}
                }
                let skipped = rejected.iter().any(|r| r.row as usize == row);
                if !skipped {
                    let slot = &mut p.slots[groups[row] as usize];
                    slot.count += 1;
                    slot.clicks += i64::from(is_valid(&rows[0], row) && kind == b"click");
                }
            });
            let ColumnData::Float64(values) = &rows[1].data else { panic!("value is not float64") };
            for (row, value) in values.iter().enumerate() {
                let skipped = rejected.iter().any(|r| r.row as usize == row);
                if is_valid(&rows[1], row) && !skipped {
                    p.slots[groups[row] as usize].sum += value;
                }
            }
            match &rows[2].data {
                ColumnData::Missing => {}
                ColumnData::Int64(bonus) => {
                    for (row, bonus) in bonus.iter().enumerate() {
                        p.slots[groups[row] as usize].sum += *bonus as f64;
                    }
                }
                other => panic!("bonus is {other:?}"),
            }
            Ok(rejected)
        })
    }

    fn combine(sources: Vec<u32>, targets: Vec<u32>) -> Result<(), Error> {
        enter("combine");
        with(|p| {
            for (source, target) in sources.into_iter().zip(targets) {
                let from = p.slots[source as usize].clone();
                let to = &mut p.slots[target as usize];
                to.count += from.count;
                to.clicks += from.clicks;
                to.sum += from.sum;
            }
        });
        Ok(())
    }

    fn merge(state: Vec<Column>, groups: Vec<u32>, total_groups: u32) -> Result<(), Error> {
        enter("merge");
        with(|p| {
            if p.mode == "echo" {
                p.kept = state;
                p.kept_groups = groups;
                return;
            }
            p.slots.resize(p.slots.len().max(total_groups as usize), Slot::default());
            let [count, clicks, sum] = &state[..] else { panic!("{} state columns", state.len()) };
            let (ColumnData::Int64(count), ColumnData::Int64(clicks), ColumnData::Float64(sum)) =
                (&count.data, &clicks.data, &sum.data)
            else {
                panic!("state of other types")
            };
            for (row, group) in groups.into_iter().enumerate() {
                let slot = &mut p.slots[group as usize];
                slot.count += count[row];
                slot.clicks += clicks[row];
                slot.sum += sum[row];
            }
        });
        Ok(())
    }

    fn state(groups: Vec<u32>, cursor: u64, _max_bytes: u64) -> Result<StateChunk, Error> {
        enter("state");
        with(|p| {
            if p.mode == "echo" {
                return Ok(StateChunk {
                    columns: std::mem::take(&mut p.kept),
                    groups: p.kept_groups.clone(),
                    next: None,
                });
            }
            if p.mode == "giant" {
                // Within the memory that it has, above what one call may return.
                let rows = (70 << 20) / 8;
                let column = || plain(ColumnData::Int64(vec![7; rows]));
                return Ok(StateChunk { columns: vec![column()], groups: vec![0; rows], next: None });
            }
            // Two groups a chunk: chunks are what is tested here.
            let start = cursor as usize;
            let end = (start + 2).min(groups.len());
            let part = &groups[start..end];
            let slots: Vec<_> = part.iter().map(|g| p.slots.get(*g as usize).cloned().unwrap_or_default()).collect();
            let mut columns = vec![
                plain(ColumnData::Int64(slots.iter().map(|s| s.count).collect())),
                plain(ColumnData::Int64(slots.iter().map(|s| s.clicks).collect())),
                plain(ColumnData::Float64(slots.iter().map(|s| s.sum).collect())),
            ];
            let mut next = (end < groups.len()).then_some(end as u64);
            let mut answered = part.to_vec();
            match p.mode.as_str() {
                "cursor" => next = Some(cursor),
                "group" => answered[0] = 1_000,
                "short" => columns[1] = plain(ColumnData::Int64(vec![])),
                "columns" => {
                    columns.pop();
                }
                _ => {}
            }
            Ok(StateChunk { columns, groups: answered, next })
        })
    }

    fn evaluate(groups: Vec<u32>, windows: Vec<Window>, _final: bool) -> Result<OutputRows, Error> {
        enter("evaluate");
        assert_eq!(groups.len(), windows.len());
        with(|p| {
            let slots: Vec<_> = groups.iter().map(|g| p.slots.get(*g as usize).cloned().unwrap_or_default()).collect();
            let mut mean = vec![0.0; slots.len()];
            let mut validity = vec![0_u8; slots.len().div_ceil(8)];
            let mut label = VarBytes { offsets: vec![0], data: vec![] };
            for (row, slot) in slots.iter().enumerate() {
                if slot.count > 0 {
                    mean[row] = slot.sum / slot.count as f64;
                    validity[row / 8] |= 1 << (row % 8);
                }
                label.data.extend_from_slice(format!("g{}", groups[row]).as_bytes());
                label.offsets.push(label.data.len() as u32);
            }
            let mut count = plain(ColumnData::Int64(slots.iter().map(|s| s.count).collect()));
            let mut answered = None;
            match p.mode.as_str() {
                "short" => count = plain(ColumnData::Int64(vec![1])),
                "kind" => count = plain(ColumnData::Float64(vec![1.0; slots.len()])),
                "missing" => count = plain(ColumnData::Missing),
                "nulls" => count.validity = Some(vec![0; slots.len().div_ceil(8)]),
                "bits" => validity.push(0),
                "tail" => *validity.last_mut().unwrap() |= 0x80,
                "utf8" => label.data[0] = 0xff,
                "offsets" => label.offsets[1] = 1_000_000,
                "offsets-first" => label.offsets[0] = 1,
                "group" => answered = Some(vec![9_999; slots.len()]),
                "several" => answered = Some(groups.iter().map(|_| groups[0]).collect()),
                _ => {}
            }
            Ok(OutputRows {
                columns: vec![
                    count,
                    plain(ColumnData::Int64(slots.iter().map(|s| s.clicks).collect())),
                    plain(ColumnData::Float64(slots.iter().map(|s| s.sum).collect())),
                    Column { data: ColumnData::Float64(mean), validity: Some(validity) },
                    plain(ColumnData::Utf8(label)),
                ],
                groups: answered,
            })
        })
    }

    fn reset(groups: Vec<u32>) -> Result<(), Error> {
        enter("reset");
        with(|p| {
            for group in groups {
                p.slots[group as usize] = Slot::default();
            }
        });
        Ok(())
    }

    fn size() -> u64 {
        enter("size");
        with(|p| (p.slots.len() * size_of::<Slot>()) as u64)
    }

    fn migrate(origin: Origin, state: Vec<Column>) -> Result<Option<Vec<Column>>, Error> {
        enter("migrate");
        // Version 0 had no clicks.
        if origin.version != "0.1.0" {
            return Ok(None);
        }
        let [count, sum] = <[Column; 2]>::try_from(state).map_err(|_| Error::Input("two columns".to_owned()))?;
        let ColumnData::Int64(counts) = &count.data else { return Err(Error::Input("count".to_owned())) };
        let mut clicks = plain(ColumnData::Int64(vec![0; counts.len()]));
        match with(|p| p.mode.clone()).as_str() {
            "migrate-short" => clicks = plain(ColumnData::Int64(vec![])),
            "migrate-long" => clicks = plain(ColumnData::Int64(vec![0; counts.len() + 1])),
            "migrate-kind" => clicks = plain(ColumnData::Float64(vec![0.0; counts.len()])),
            "migrate-missing" => clicks = plain(ColumnData::Missing),
            "migrate-nulls" => clicks.validity = Some(vec![0; counts.len().div_ceil(8)]),
            "migrate-columns" => return Ok(Some(vec![count, sum])),
            "migrate-error" => return Err(Error::Input("no such state".to_owned())),
            _ => {}
        }
        Ok(Some(vec![count, clicks, sum]))
    }
}

export!(Component);
