//! Both paths against a model: rows are made first, written as JSON in many styles, and must come back.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use millrace_core::schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;

/// A value of a batch, whatever its column.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal(i128),
    Text(String),
    Bytes(Vec<u8>),
}

fn cell(array: &ArrayRef, row: usize) -> Cell {
    use arrow_schema::DataType as A;
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        A::Boolean => Cell::Boolean(array.as_boolean().value(row)),
        A::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(row)),
        A::Date32 => Cell::Int(array.as_primitive::<Date32Type>().value(row)),
        A::Int64 => Cell::Long(array.as_primitive::<Int64Type>().value(row)),
        A::Timestamp(..) => Cell::Long(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        A::Float32 => Cell::Float(array.as_primitive::<Float32Type>().value(row)),
        A::Float64 => Cell::Double(array.as_primitive::<Float64Type>().value(row)),
        A::Decimal128(..) => Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        A::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        A::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        other => panic!("{other}"),
    }
}

fn schema(columns: &[(&str, DataType, bool, &[&str])]) -> SourceSchema {
    SourceSchema {
        schema: Schema::new(columns.iter().map(|(name, t, nullable, _)| Field::new(*name, *t, *nullable)).collect()),
        paths: columns.iter().map(|(.., path)| path.iter().map(|s| (*s).to_owned()).collect()).collect(),
    }
}

fn flat(columns: &[(&str, DataType, bool)]) -> SourceSchema {
    SourceSchema {
        schema: Schema::new(columns.iter().map(|(name, t, nullable)| Field::new(*name, *t, *nullable)).collect()),
        paths: columns.iter().map(|(name, ..)| vec![(*name).to_owned()]).collect(),
    }
}

fn ad_schema() -> SourceSchema {
    flat(&[
        ("event_id", DataType::String, false),
        ("user_id", DataType::String, false),
        ("campaign_id", DataType::String, false),
        ("event_type", DataType::String, false),
        ("timestamp", DataType::Timestamptz, false),
        ("platform", DataType::String, true),
        ("revenue", DataType::Double, true),
    ])
}

fn at(name: &str, unit: TimeUnit) -> EventTimeSpec {
    EventTimeSpec::Column { name: name.to_owned(), unit }
}

fn record(offset: i64, payload: &[u8]) -> RawMessage<'_> {
    RawMessage { offset, payload: Some(payload), key: None, timestamp_ms: Some(offset * 10) }
}

fn decode(decoder: &mut JsonDecoder, payloads: &[&[u8]]) -> Decoded {
    let messages: Vec<_> = (100..).zip(payloads).map(|(offset, payload)| record(offset, payload)).collect();
    decoder.decode(&messages)
}

fn one(schema: &SourceSchema, payload: &str) -> Result<Vec<Cell>, String> {
    one_bytes(schema, payload.as_bytes())
}

fn one_bytes(schema: &SourceSchema, payload: &[u8]) -> Result<Vec<Cell>, String> {
    let mut decoder = JsonDecoder::new(schema, &EventTimeSpec::RecordTimestamp).unwrap();
    let decoded = decode(&mut decoder, &[payload]);
    match decoded.failed.as_slice() {
        [] => Ok(decoded.rows.columns().iter().map(|c| cell(c, 0)).collect()),
        [failed] => Err(failed.reason.clone()),
        _ => panic!("one message, two failures"),
    }
}

#[test]
fn a_bad_message_costs_only_itself() {
    let good = br#"{"event_id":"e","user_id":"u","campaign_id":"c","event_type":"click","timestamp":1700000000123,"platform":"ios"}"#;
    let mut bad = good.to_vec();
    bad[13] = 0xff;
    for bad in [&bad[..], b"", b"{", b"[1]", br#"{"event_id":1}"#] {
        let mut payloads = vec![&good[..]; 8_192];
        payloads[4_000] = bad;
        let mut decoder = JsonDecoder::new(&ad_schema(), &at("timestamp", TimeUnit::Millis)).unwrap();
        let decoded = decode(&mut decoder, &payloads);
        assert_eq!(decoded.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [4_000]);
        assert_eq!(decoded.rows.num_rows(), 8_191);
        assert_eq!(decoded.event_time_ms, vec![1_700_000_000_123; 8_191]);
        let offsets: Vec<i64> = (100..100 + 8_192).filter(|o| *o != 4_100).collect();
        assert_eq!(decoded.offsets, offsets);
        for row in [0, 3_999, 4_000, 8_190] {
            assert_eq!(cell(decoded.rows.column(0), row), Cell::Text("e".into()));
            assert_eq!(cell(decoded.rows.column(5), row), Cell::Text("ios".into()));
            assert_eq!(cell(decoded.rows.column(6), row), Cell::Null);
        }
    }
}

#[test]
fn reasons_name_the_column_and_what_was_found() {
    let one_column = |t, nullable| flat(&[("x", t, nullable)]);
    let decimal = DataType::Decimal { precision: 4, scale: 1 };
    let cases = [
        (DataType::Long, r#"{"x":"5"}"#, r#"column `x` (long): expected an integer of 64 bits, found the string "5""#),
        (DataType::Long, r#"{"x":1e30}"#, "column `x` (long): expected an integer of 64 bits, found the number 1e30"),
        (
            DataType::Int,
            r#"{"x":2147483648}"#,
            "column `x` (int): expected an integer of 32 bits, found the number 2147483648",
        ),
        (DataType::Double, r#"{"x":1e999}"#, "column `x` (double): expected a number in range, found the number 1e999"),
        (DataType::Boolean, r#"{"x":1}"#, "column `x` (boolean): expected true or false, found the number 1"),
        (DataType::String, r#"{"x":{"y":1}}"#, "column `x` (string): expected a string, found an object"),
        (DataType::String, r#"{"x":[1]}"#, "column `x` (string): expected a string, found an array"),
        (DataType::String, r#"{"x":true}"#, "column `x` (string): expected a string, found true"),
        (DataType::String, r#"{"y":1}"#, "column `x` (string) is missing, and it is not nullable"),
        (DataType::String, r#"{"x":null}"#, "column `x` (string) is null, and it is not nullable"),
        (
            decimal,
            r#"{"x":1.25}"#,
            "column `x` (decimal(4,1)): expected a number, or a string holding one, that fits exactly, found the number 1.25",
        ),
        (
            DataType::Date,
            r#"{"x":"2026-02-30"}"#,
            r#"column `x` (date): expected "YYYY-MM-DD" or days since 1970-01-01, found the string "2026-02-30""#,
        ),
        (
            DataType::Timestamptz,
            r#"{"x":"2026-02-01T00:00:00"}"#,
            r#"column `x` (timestamptz): expected epoch milliseconds or RFC 3339 with a zone, found the string "2026-02-01T00:00:00""#,
        ),
        (DataType::Binary, r#"{"x":"a"}"#, r#"column `x` (binary): expected a base64 string, found the string "a""#),
        (DataType::String, "", "empty message: expected a JSON object"),
        (DataType::String, "[1]", "the top level is an array, expected an object"),
        (DataType::String, " 12 ", "the top level is the number 12 , expected an object"),
    ];
    for (data_type, payload, reason) in cases {
        assert_eq!(one(&one_column(data_type, false), payload), Err(reason.to_owned()), "{payload}");
    }
    let long = format!(r#"{{"x":"{}"}}"#, "é".repeat(500));
    let reason = one(&one_column(DataType::Long, false), &long).unwrap_err();
    assert!(reason.ends_with("… (1002 bytes)") && reason.chars().count() < 160, "{reason}");
    for garbage in [
        r#"{"x":"a"} {}"#,
        r#"{"x":"a"}x"#,
        r#"{"x":"a",}"#,
        r#"{"x":NaN}"#,
        r#"{"x":01}"#,
        "{\"x\":\"a\nb\"}",
        r#"{"x" "a"}"#,
        r#"{"x":"a""#,
    ] {
        let reason = one(&one_column(DataType::String, true), garbage).unwrap_err();
        assert!(reason.starts_with("not valid JSON: "), "{garbage}: {reason}");
    }
    let reason = one(&one_column(DataType::String, true), r#"{"x":"\ud800"}"#).unwrap_err();
    assert_eq!(reason, r#"column `x` (string): an escape is no character: found the string "\ud800""#);
    assert_eq!(one(&one_column(DataType::String, true), r#"{"y":"\ud800","x":"a"}"#), Ok(vec![Cell::Text("a".into())]));
}

#[test]
fn broken_utf8_is_found_wherever_it_is() {
    let schema = flat(&[("x", DataType::String, true)]);
    let at = |payload: &[u8]| one_bytes(&schema, payload).unwrap_err();
    assert_eq!(at(b"{\"x\":\"a\xff\"}"), "column `x` (string): not valid UTF-8: byte 0xff at position 7");
    assert_eq!(at(b"{\"y\":\"a\xc3\",\"x\":\"b\"}"), "member `y`: not valid UTF-8: byte 0xc3 at position 7");
    assert!(at(b"\xff{}").starts_with("not valid UTF-8: byte 0xff at position 0"));
    // two halves of a character in neighbouring messages make no whole
    let mut decoder = JsonDecoder::new(&schema, &EventTimeSpec::RecordTimestamp).unwrap();
    assert_eq!(decode(&mut decoder, &[b"{\"x\":\"\xc3\"}", b"{\"x\":\"\xa9\"}"]).failed.len(), 2);
}

#[test]
fn tombstones_and_records_without_a_time_fail() {
    let schema = flat(&[("x", DataType::String, true)]);
    let mut decoder = JsonDecoder::new(&schema, &EventTimeSpec::RecordTimestamp).unwrap();
    let tombstone = RawMessage { offset: 1, payload: None, key: None, timestamp_ms: Some(7) };
    let timeless = RawMessage { offset: 2, payload: Some(b"{}"), key: None, timestamp_ms: None };
    let good = RawMessage { offset: 3, payload: Some(b"{}"), key: None, timestamp_ms: Some(7) };
    let decoded = decoder.decode(&[tombstone, timeless, good]);
    assert_eq!((decoded.event_time_ms, decoded.offsets), (vec![7], vec![3]));
    assert_eq!(decoded.failed[0].reason, "no payload (a tombstone): expected a JSON object");
    assert_eq!(decoded.failed[1].reason, "the record has no timestamp, and it is the event time");
}

#[test]
fn event_times_are_floored_to_milliseconds() {
    let schema = flat(&[("t", DataType::Timestamptz, true)]);
    let cases = [
        (TimeUnit::Millis, r#"{"t":-1}"#, -1),
        (TimeUnit::Micros, r#"{"t":-1}"#, -1),
        (TimeUnit::Nanos, r#"{"t":-1000001}"#, -2),
        (TimeUnit::Nanos, r#"{"t":1700000000123999999}"#, 1_700_000_000_123),
        (TimeUnit::Seconds, r#"{"t":1700000000}"#, 1_700_000_000_000),
        (TimeUnit::Seconds, r#"{"t":1700000000.9999}"#, 1_700_000_000_999),
        (TimeUnit::Seconds, r#"{"t":"1969-12-31T23:59:59.9999Z"}"#, -1),
    ];
    for (unit, payload, event_time_ms) in cases {
        let mut decoder = JsonDecoder::new(&schema, &at("t", unit)).unwrap();
        let decoded = decode(&mut decoder, &[payload.as_bytes()]);
        assert_eq!((decoded.event_time_ms, decoded.failed), (vec![event_time_ms], vec![]), "{payload}");
    }
    let mut decoder = JsonDecoder::new(&schema, &at("t", TimeUnit::Millis)).unwrap();
    let decoded = decode(&mut decoder, &[br#"{"t":null}"#, b"{}"]);
    assert_eq!(decoded.failed[0].reason, "column `t` (timestamptz) is null, and it is the event time");
    assert_eq!(decoded.failed[1].reason, "column `t` (timestamptz) is missing, and it is the event time");
    let long = flat(&[("t", DataType::Long, false)]);
    let mut decoder = JsonDecoder::new(&long, &at("t", TimeUnit::Seconds)).unwrap();
    assert_eq!(decode(&mut decoder, &[br#"{"t":-2}"#]).event_time_ms, [-2_000]);
    assert!(JsonDecoder::new(&long, &at("u", TimeUnit::Seconds)).is_err());
    assert!(JsonDecoder::new(&flat(&[("t", DataType::Double, false)]), &at("t", TimeUnit::Seconds)).is_err());
}

#[test]
fn a_column_of_strings_gives_the_event_time_and_keeps_its_text() {
    let schema = flat(&[("x", DataType::Long, true), ("t", DataType::String, true)]);
    let mut decoder = JsonDecoder::new(&schema, &at("t", TimeUnit::Millis)).unwrap();
    let good: [(&[u8], i64); 3] = [
        (br#"{"x":1,"t":"1970-01-01T01:00:00.0015+01:00"}"#, 1),
        (br#"{"x":2,"t":"1970-01-01T00:00:02\u005a"}"#, 2_000),
        (br#"{"x":3,"t":"1969-12-31T23:59:59.9999Z"}"#, -1),
    ];
    let bad: [&[u8]; 5] =
        [br#"{"t":"1970-01-01T00:00:02"}"#, br#"{"t":"noon"}"#, br#"{"t":7}"#, br#"{"t":null}"#, br#"{"x":1}"#];
    // good and bad ones between each other
    let payloads: Vec<&[u8]> = vec![good[0].0, bad[0], bad[1], good[1].0, bad[2], bad[3], good[2].0, bad[4]];
    let decoded = decode(&mut decoder, &payloads);
    assert_eq!(decoded.event_time_ms, good.map(|(_, ms)| ms));
    let texts: Vec<_> = decoded.rows.column(1).as_string::<i32>().iter().flatten().map(str::to_owned).collect();
    assert_eq!(texts, ["1970-01-01T01:00:00.0015+01:00", "1970-01-01T00:00:02Z", "1969-12-31T23:59:59.9999Z"]);
    assert_eq!(decoded.failed.iter().map(|f| f.index).collect::<Vec<_>>(), [1, 2, 4, 5, 7]);
    let reason = &decoded.failed[1].reason;
    assert_eq!(
        reason,
        "column `t` (string): expected RFC 3339 with a zone (it is the event time), found the string \"noon\""
    );
}

#[test]
fn paths_reach_into_nested_objects_and_the_last_member_counts() {
    let schema = schema(&[
        ("country", DataType::String, true, &["geo", "country"]),
        ("lat", DataType::Double, true, &["geo", "point", "lat"]),
        ("id", DataType::Long, false, &["id"]),
    ]);
    let text = |s: &str| Cell::Text(s.to_owned());
    let cases = [
        (
            r#"{"geo":{"country":"CZ","point":{"lon":1,"lat":50.5}},"id":1}"#,
            vec![text("CZ"), Cell::Double(50.5), Cell::Long(1)],
        ),
        (
            r#"{"id":1,"geo":{"country":"CZ"},"geo":{"point":{"lat":1}}}"#,
            vec![Cell::Null, Cell::Double(1.0), Cell::Long(1)],
        ),
        (r#"{"id":1,"geo":7,"id":2}"#, vec![Cell::Null, Cell::Null, Cell::Long(2)]),
        (
            r#"{"id":1,"g\u0065o":{"c\u006funtry":"\u00e9\ud83d\ude00\n"},"x":[{"geo":{"country":"no"}}]}"#,
            vec![text("é😀\n"), Cell::Null, Cell::Long(1)],
        ),
        (r#"{"id":1,"geo":{"country":"a"},"geo":null}"#, vec![Cell::Null, Cell::Null, Cell::Long(1)]),
    ];
    for (payload, cells) in cases {
        assert_eq!(one(&schema, payload), Ok(cells), "{payload}");
    }
    let flat = flat(&[("x", DataType::Long, true)]);
    assert_eq!(one(&flat, r#"{"x":"wrong","x":3}"#), Ok(vec![Cell::Long(3)]));
    assert_eq!(one(&flat, r#"{"x":3,"x":null}"#), Ok(vec![Cell::Null]));
}

#[test]
fn ten_megabytes_are_a_message_like_any_other() {
    let schema = flat(&[("x", DataType::String, false), ("y", DataType::Long, false)]);
    for filler in ["a", "é", "\\n"] {
        let payload = format!(r#"{{"x":"{}","y":5}}"#, filler.repeat(10 << 20));
        let cells = one(&schema, &payload).unwrap();
        let Cell::Text(text) = &cells[0] else { panic!() };
        assert_eq!((text.chars().count(), &cells[1]), (10 << 20, &Cell::Long(5)));
    }
}

#[test]
fn more_columns_than_the_fast_path_has_bits_for() {
    let names: Vec<String> = (0..150).map(|i| format!("c{i}")).collect();
    let schema = flat(&names.iter().map(|n| (n.as_str(), DataType::Long, true)).collect::<Vec<_>>());
    let cells = one(&schema, r#"{"c149":149,"c64":64,"c0":0}"#).unwrap();
    let expected = |i| if [0, 64, 149].contains(&i) { Cell::Long(i) } else { Cell::Null };
    assert_eq!(cells, (0..150).map(expected).collect::<Vec<_>>());
}

/// All types, some nullable, one below a path when `nested`.
fn wide_schema(nested: bool) -> SourceSchema {
    let path: &[&str] = if nested { &["in", "long"] } else { &["long"] };
    schema(&[
        ("string", DataType::String, false, &["string"]),
        ("long", DataType::Long, true, path),
        ("int", DataType::Int, false, &["int"]),
        ("double", DataType::Double, true, &["double"]),
        ("float", DataType::Float, true, &["float"]),
        ("boolean", DataType::Boolean, true, &["boolean"]),
        ("time of the event", DataType::Timestamptz, false, &["time of the event"]),
        ("decimal", DataType::Decimal { precision: 20, scale: 4 }, true, &["decimal"]),
        ("date", DataType::Date, true, &["date"]),
        ("binary", DataType::Binary, true, &["binary"]),
        ("žluť", DataType::String, true, &["žluť"]),
    ])
}

/// How a string may be written.
fn quoted(text: &str, style: u8) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if style == 1 || (style == 2 && (c as u32).is_multiple_of(3)) || c < ' ' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else if c == '"' || c == '\\' {
            out.extend(['\\', c]);
        } else {
            out.push(c);
        }
    }
    out.push('"');
    out
}

fn base64_of(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            out.push(if i <= group.len() { char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]) } else { '=' });
        }
    }
    out
}

/// A cell with the JSON that stands for it; none: the member is left out.
fn value_of(index: usize, nullable: bool) -> BoxedStrategy<(Cell, Option<String>)> {
    let text = || {
        (prop_oneof!["[a-z]{0,40}", "\\PC{0,24}", any::<String>()], 0..3u8)
            .prop_map(|(s, style)| (Cell::Text(s.clone()), Some(quoted(&s, style))))
    };
    let some: BoxedStrategy<(Cell, Option<String>)> = match index {
        0 | 10 => text().boxed(),
        1 => any::<i64>().prop_map(|v| (Cell::Long(v), Some(v.to_string()))).boxed(),
        2 => any::<i32>().prop_map(|v| (Cell::Int(v), Some(v.to_string()))).boxed(),
        3 => prop_oneof![
            proptest::num::f64::NORMAL.prop_map(|v| (Cell::Double(v), Some(format!("{v:e}")))),
            (-1e9..1e9f64).prop_map(|v| (Cell::Double(v), Some(format!("{v}")))),
            (any::<i32>(), 0..9999u32).prop_map(|(a, b)| {
                let text = format!("{a}.{b:04}");
                (Cell::Double(text.parse().unwrap()), Some(text))
            }),
        ]
        .boxed(),
        4 => proptest::num::f32::NORMAL.prop_map(|v| (Cell::Float(v), Some(format!("{v:e}")))).boxed(),
        5 => any::<bool>().prop_map(|v| (Cell::Boolean(v), Some(v.to_string()))).boxed(),
        6 => (-1_000_000_000_000i64..4_000_000_000_000)
            .prop_map(|ms| (Cell::Long(ms * 1_000), Some(ms.to_string())))
            .boxed(),
        7 => (-99_999_999_999_999_999_999i128..=99_999_999_999_999_999_999, any::<bool>())
            .prop_map(|(v, as_string)| {
                let (sign, v_abs) = (if v < 0 { "-" } else { "" }, v.unsigned_abs());
                let text = format!("{sign}{}.{:04}", v_abs / 10_000, v_abs % 10_000);
                (Cell::Decimal(v), Some(if as_string { format!("\"{text}\"") } else { text }))
            })
            .boxed(),
        8 => (-100_000..100_000i32).prop_map(|days| (Cell::Int(days), Some(days.to_string()))).boxed(),
        9 => proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|b| (Cell::Bytes(b.clone()), Some(format!("\"{}\"", base64_of(&b)))))
            .boxed(),
        _ => unreachable!(),
    };
    if nullable {
        prop_oneof![4 => some, 1 => Just((Cell::Null, None)), 1 => Just((Cell::Null, Some("null".to_owned())))].boxed()
    } else {
        some
    }
}

#[derive(Clone, Debug)]
struct Style {
    order: Vec<usize>,
    space: &'static str,
    ignored: Option<&'static str>,
    duplicate: Option<usize>,
    escaped_keys: bool,
}

fn style() -> impl Strategy<Value = Style> {
    let order =
        prop_oneof![3 => Just((0..11).collect::<Vec<_>>()), 1 => Just((0..11).collect::<Vec<_>>()).prop_shuffle()];
    let ignored = prop_oneof![
        3 => Just(None),
        1 => Just(Some(r#""other":"x""#)),
        1 => Just(Some(r#""other":{"long":[1,{"string":"}]\""}],"a":-1.5e3}"#)),
        1 => Just(Some(r#""":null"#)),
    ];
    let duplicate = prop_oneof![4 => Just(None), 1 => (0..11usize).prop_map(Some)];
    (
        order,
        prop_oneof![2 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t ")],
        ignored,
        duplicate,
        prop::bool::weighted(0.1),
    )
        .prop_map(|(order, space, ignored, duplicate, escaped_keys)| Style {
            order,
            space,
            ignored,
            duplicate,
            escaped_keys,
        })
}

/// A row as the batch must hold it, and as JSON.
fn row(nested: bool) -> impl Strategy<Value = (Vec<Cell>, String)> {
    let fields = wide_schema(nested).schema.fields;
    let cells: Vec<_> = fields.iter().enumerate().map(|(i, f)| value_of(i, f.nullable)).collect();
    (cells, style()).prop_map(move |(cells, style)| {
        let space = style.space;
        let member = |i: usize, json: &str| {
            let name = &wide_schema(nested).schema.fields[i].name;
            let key = quoted(name, u8::from(style.escaped_keys));
            if nested && i == 1 {
                format!("\"in\"{space}:{{{space}{key}:{space}{json}}}")
            } else {
                format!("{key}{space}:{space}{json}")
            }
        };
        let mut members: Vec<String> = Vec::new();
        // an earlier member of the same name, of a type that no column has
        members.extend(style.duplicate.filter(|i| cells[*i].1.is_some()).map(|i| member(i, "[[]]")));
        members.extend(style.ignored.map(str::to_owned));
        members.extend(style.order.iter().filter_map(|i| cells[*i].1.as_deref().map(|json| member(*i, json))));
        let body = members.join(&format!("{space},{space}"));
        (cells.into_iter().map(|(cell, _)| cell).collect(), format!("{space}{{{space}{body}{space}}}{space}"))
    })
}

fn both(schema: &SourceSchema) -> [JsonDecoder; 2] {
    let make = || JsonDecoder::new(schema, &at("time of the event", TimeUnit::Millis)).unwrap();
    let (fast, mut slow) = (make(), make());
    slow.plan.fast = false;
    [fast, slow]
}

fn assert_same(a: &Decoded, b: &Decoded) {
    assert_eq!(a.failed, b.failed);
    assert_eq!(a.offsets, b.offsets);
    assert_eq!(a.event_time_ms, b.event_time_ms);
    assert_eq!(a.rows, b.rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_row_comes_back_on_both_paths(rows in proptest::collection::vec(row(false), 1..12)) {
        check_rows(&wide_schema(false), &rows);
    }

    #[test]
    fn every_nested_row_comes_back(rows in proptest::collection::vec(row(true), 1..6)) {
        check_rows(&wide_schema(true), &rows);
    }

    /// Whatever the fast path accepts, the slow path does, with the same values.
    #[test]
    fn damaged_messages_are_judged_alike(
        rows in proptest::collection::vec((row(false), any::<prop::sample::Index>(), prop_oneof![
            proptest::sample::select(&b"\"\\{}[]:,0123456789.eE+- \n\x00ntfu\xff\xc3"[..]), any::<u8>(),
        ], 0..3u8), 1..12)
    ) {
        let payloads: Vec<Vec<u8>> = rows.into_iter().map(|((_, json), index, byte, how)| {
            let mut payload = json.into_bytes();
            let at = index.index(payload.len());
            match how {
                0 => payload[at] = byte,
                1 => payload.insert(at, byte),
                _ => { payload.remove(at); }
            }
            payload
        }).collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let [mut fast, mut slow] = both(&wide_schema(false));
        let (fast, slow) = (decode(&mut fast, &payloads), decode(&mut slow, &payloads));
        assert_same(&fast, &slow);
        prop_assert_eq!(fast.rows.num_rows() + fast.failed.len(), payloads.len());
        for (index, payload) in payloads.iter().enumerate() {
            let is_json = serde_json::from_slice::<serde_json::Value>(payload).is_ok();
            let accepted = !slow.failed.iter().any(|f| f.index == index);
            prop_assert!(is_json || !accepted || payload.windows(2).any(|w| w == b"\\u"), "{:?}", payload);
        }
    }
}

fn check_rows(schema: &SourceSchema, rows: &[(Vec<Cell>, String)]) {
    let payloads: Vec<&[u8]> = rows.iter().map(|(_, json)| json.as_bytes()).collect();
    let [mut fast, mut slow] = both(schema);
    let (fast, slow) = (decode(&mut fast, &payloads), decode(&mut slow, &payloads));
    assert_eq!(fast.failed, []);
    assert_same(&fast, &slow);
    for (index, (cells, json)) in rows.iter().enumerate() {
        let found: Vec<Cell> = fast.rows.columns().iter().map(|c| cell(c, index)).collect();
        assert_eq!(&found, cells, "{json}");
    }
}

/// The fast path is taken at all: a row that needs no slow path leaves the learnt order behind.
#[test]
fn the_common_message_takes_the_fast_path() {
    let schema = ad_schema();
    let mut plan = Plan::new(&schema, &at("timestamp", TimeUnit::Millis)).unwrap();
    let mut table = Table::new(&plan.columns, 4, &[]);
    let plain = br#"{"event_id":"0123456789abcdef0123","user_id":"u","campaign_id":"c","event_type":"click","timestamp":1700000000123,"platform":"ios","revenue":1.25}"#;
    let spaced = br#"{ "event_id": "e", "more": -1.5, "campaign_id": "c", "user_id": "u", "event_type": "click", "timestamp": 1700000000123, "platform": null }"#;
    assert!(fast::scan(&mut plan, &mut table, plain));
    assert!(fast::scan(&mut plan, &mut table, spaced));
    assert!(fast::scan(&mut plan, &mut table, spaced));
    assert_eq!(table.rows, 3);
}
