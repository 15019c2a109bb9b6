use super::*;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Float64Array, Int64Array, StringArray, types};
use campaign_metrics::Campaign;
use millrace_core::schema::{DataType, Field};

fn open() -> Box<dyn Aggregator> {
    let factory = NativeFactory::<Campaign>::new("campaign-metrics");
    let offered = Schema::new(vec![
        Field::new("user_id", DataType::String, false),
        Field::new("event_type", DataType::String, false),
        Field::new("revenue", DataType::Double, true),
    ]);
    factory.open("{}", &offered).unwrap()
}

fn event_columns() -> Vec<Option<ArrayRef>> {
    let kinds = StringArray::from(vec!["click", "impression", "view", "impression", "conversion"]);
    let users = StringArray::from(vec!["x", "ada", "ada", "bob", "ada"]);
    let revenue = Float64Array::from(vec![None, None, Some(100.0), None, Some(2.5)]);
    vec![Some(Arc::new(kinds)), Some(Arc::new(users)), Some(Arc::new(revenue))]
}

#[test]
fn arrow_goes_in_and_comes_out_sliced_and_in_chunks() {
    let mut plugin = open();
    let names: Vec<String> = plugin.signature().state.fields.iter().map(Field::to_string).collect();
    assert_eq!(names[3..], ["revenue: double", "users.values: list<string>?", "users.sketch: binary?"]);
    // sliced: the offsets and the bitmap no longer begin at the beginning
    let columns: Vec<_> = event_columns().into_iter().map(|c| c.map(|c| c.slice(1, 4))).collect();
    let rejected = plugin.update(&columns, &[0, 0, 0, 0], 2).unwrap();
    assert_eq!(rejected, [Rejected { row: 1, reason: "unknown event_type \"view\"".into() }]);
    let mut fresh = open();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let chunk = plugin.state(&[0, 1], at, 1).unwrap();
        for (column, field) in chunk.columns.iter().zip(&plugin.signature().state.fields) {
            assert_eq!(column.data_type(), &field.data_type.to_arrow());
        }
        fresh.merge(&chunk.columns, &chunk.groups, 2).unwrap();
        cursor = chunk.next;
    }
    let window = WindowUs { start: 0, end: 1 };
    for plugin in [&mut plugin, &mut fresh] {
        let out = plugin.evaluate(&[0, 1], &[window, window], true).unwrap();
        let longs = |i: usize| out.columns[i].as_primitive::<types::Int64Type>().clone();
        assert_eq!(longs(0), Int64Array::from(vec![2, 0]));
        assert_eq!(longs(4), Int64Array::from(vec![2, 0]));
        assert_eq!(out.columns[3].as_primitive::<types::Float64Type>(), &Float64Array::from(vec![2.5, 0.0]));
        assert_eq!(out.columns[5].as_primitive::<types::Float64Type>(), &Float64Array::from(vec![Some(0.0), None]));
    }
}

#[test]
fn a_refusal_says_what_was_refused() {
    let factory = NativeFactory::<Campaign>::new("campaign-metrics");
    let error = factory.open(r#"{"unique_users": 1}"#, &Schema::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "plugin `campaign-metrics` refused its configuration: option `unique_users`: \"exact\" or \"hll\" is wanted, found 1"
    );
    let error = factory.open("", &Schema::default()).err().unwrap();
    assert!(error.to_string().contains("column `event_type` (string) is missing"), "{error}");
}
