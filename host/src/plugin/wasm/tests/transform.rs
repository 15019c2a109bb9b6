//! The transform world: right answers, and every broken promise named.

use arrow_array::types::Float64Type;

use super::*;

fn factory() -> &'static WasmTransformFactory {
    static FACTORY: OnceLock<WasmTransformFactory> = OnceLock::new();
    FACTORY.get_or_init(|| WasmTransformFactory::new(&engine(), "guest", &artifact("transform"), limits()).unwrap())
}

pub(super) fn open(mode: &str) -> Box<dyn Transformer> {
    factory().open(&format!(r#"{{"mode":"{mode}"}}"#), &Schema::default()).unwrap()
}

/// `word` and `value` = the row's number, null in every third row.
pub(super) fn batch(words: &[&str]) -> Vec<Option<ArrayRef>> {
    let value: Float64Array = (0..words.len()).map(|i| (i % 3 != 2).then_some(i as f64)).collect();
    vec![Some(Arc::new(StringArray::from(words.to_vec()))), Some(Arc::new(value)), None]
}

#[test]
fn rows_are_mapped_dropped_repeated_and_rejected() {
    let mut transformer = open("normal");
    assert_eq!(transformer.signature().input.len(), 3);
    for _ in 0..2 {
        let out = transformer.process(&batch(&["a", "drop", "twice", "bad", "é", ""]), 6).unwrap();
        assert_eq!(out.origins, [0, 2, 2, 4, 5]);
        assert_eq!(out.rejected, [Rejected { row: 3, reason: "bad word".to_owned() }]);
        let words: Vec<_> = out.columns[0].as_string::<i32>().iter().map(Option::unwrap).collect();
        assert_eq!(words, ["a", "twice", "twice", "é", ""]);
        let values: Vec<_> = out.columns[1].as_primitive::<Float64Type>().iter().collect();
        assert_eq!(values, [Some(0.0), None, None, Some(8.0), None]);
    }
    let out = transformer.process(&batch(&[]), 0).unwrap();
    assert!(out.origins.is_empty() && out.columns[0].is_empty());
    let out = transformer.process(&batch(&["drop"; 9]), 9).unwrap();
    assert!(out.origins.is_empty() && out.rejected.is_empty());
}

#[test]
fn rows_are_counted_without_columns() {
    let out = open("no-input").process(&[], 5).unwrap();
    assert_eq!(out.origins, [0, 1, 2, 3, 4]);
}

#[test]
fn broken_contracts_are_named() {
    let broken = |mode: &str, expected: &str| {
        let error = open(mode).process(&batch(&["a", "b", "c"]), 3).unwrap_err();
        let PluginError::Contract { plugin, call: "process", message } = error else { panic!("{mode}: {error}") };
        assert_eq!(plugin, "guest");
        assert!(message.contains(expected), "{mode}: {message}");
    };
    broken("origins-decrease", "origins decrease after output row 0");
    broken("origins-far", "output row 2 has origin 3, there are 3");
    broken("origins-short", "column `word` (string): has 4 offsets, 2 rows need 3");
    broken("reject-far", "rejected row 3, there are 3");
    broken("reject-twice", "rejected row 0 twice");
    broken("reject-and-return", "rejected row 0, and returned an output row for it");
    broken("columns", "returned 1 columns, its signature has 2");
    broken("kind", "column `value` (double): has values of kind int64");
    let error = factory().open(r#"{"mode":"twice"}"#, &Schema::default()).err().unwrap();
    assert!(error.to_string().contains("declares output column `word` twice"), "{error}");
    let error = factory().open(r#"{"mode":"bad-config"}"#, &Schema::default()).err().unwrap();
    assert_eq!(error.to_string(), "plugin `guest` refused its configuration: no such mode");
    // The host's own mistakes do not reach the guest.
    let error = open("normal").process(&batch(&["a"]), 2).unwrap_err();
    assert!(error.to_string().contains("column `word` has 1 rows, the call has 2"), "{error}");
}

#[test]
fn a_failed_transform_is_not_called_again() {
    let mut transformer = open("loop");
    let (call, message, _) = trapped(transformer.process(&batch(&["a"]), 1).unwrap_err());
    assert_eq!((call, message.as_str()), ("process", "it ran past its deadline of 500ms (`deadline` raises it)"));
    let (_, message, _) = trapped(transformer.process(&batch(&["a"]), 1).unwrap_err());
    assert!(message.contains("failed before, in `process`"), "{message}");
    let (_, message, _) = trapped(open("internal").process(&batch(&["a"]), 1).unwrap_err());
    assert_eq!(message, "no idea");
    assert_eq!(open("normal").process(&batch(&["a"]), 1).unwrap().origins, [0]);
}

#[test]
fn a_plugin_of_another_kind_is_explained() {
    let says = |error: PluginError| error.to_string();
    let found = says(WasmTransformFactory::new(&engine(), "p", &artifact("join"), limits()).err().unwrap());
    assert_eq!(found, "plugin `p`: is a join plugin, a transform plugin is needed here");
    let found = says(WasmFactory::new(&engine(), "p", &artifact("transform"), limits()).err().unwrap());
    assert_eq!(found, "plugin `p`: is a transform plugin, an aggregation plugin is needed here");
}
