//! The join world: right answers, and every broken promise named.

use arrow_array::types::Int64Type;

use super::*;

fn schema() -> Schema {
    Schema::new(vec![Field::new("id", DataType::Long, false)])
}

fn factory() -> &'static WasmJoinFactory {
    static FACTORY: OnceLock<WasmJoinFactory> = OnceLock::new();
    FACTORY.get_or_init(|| WasmJoinFactory::new(&engine(), "guest", &artifact("join"), limits()).unwrap())
}

fn open(mode: &str) -> Box<dyn Joiner> {
    factory().open(&format!(r#"{{"mode":"{mode}"}}"#), &schema(), &schema()).unwrap()
}

fn ids(ids: &[i64]) -> Option<ArrayRef> {
    Some(Arc::new(Int64Array::from(ids.to_vec())))
}

type Row = (Option<i64>, Option<i64>, String);

fn rows(joined: &Joined) -> Vec<Row> {
    let long = |i: usize| joined.columns[i].as_primitive::<Int64Type>().iter();
    let labels = joined.columns[2].as_string::<i32>().iter().map(|label| label.unwrap().to_owned());
    long(0).zip(long(1)).zip(labels).map(|((left, right), label)| (left, right, label)).collect()
}

/// All pairs of two sides, those with an even sum kept: computed here by a loop over the ids themselves.
#[test]
fn pairs_become_rows() {
    let (left, right) = ([1, 2, 3, 4, 5], [10, 11, 12]);
    let labels = ["a", "b", "c"];
    let (mut left_rows, mut right_rows, mut expected, mut origins) = (vec![], vec![], vec![], vec![]);
    for (r, right) in right.iter().enumerate() {
        for (l, left) in left.iter().enumerate() {
            if left % 2 == right % 2 {
                expected.push((Some(*left), Some(*right), labels[r].to_owned()));
                origins.push(left_rows.len() as u32);
            }
            left_rows.push(l as u32);
            right_rows.push(r as u32);
        }
    }
    let mut joiner = open("normal");
    let label: ArrayRef = Arc::new(StringArray::from(labels.to_vec()));
    let joined = joiner.pairs(&[ids(&left)], &[ids(&right), Some(label)], 5, 3, &left_rows, &right_rows).unwrap();
    assert_eq!(rows(&joined), expected);
    assert_eq!(joined.origins, origins);

    let joined = joiner.pairs(&[ids(&[7])], &[ids(&[9]), None], 1, 1, &[0], &[0]).unwrap();
    assert_eq!(rows(&joined), [(Some(7), Some(9), "none".to_owned())]);
    let joined = joiner.pairs(&[ids(&[])], &[ids(&[]), None], 0, 0, &[], &[]).unwrap();
    assert!(joined.origins.is_empty());
}

#[test]
fn unmatched_rows_have_one_side() {
    let mut joiner = open("normal");
    let joined = joiner.unmatched(JoinSide::Left, &[ids(&[3, 4])], 2).unwrap();
    assert_eq!(rows(&joined), [(Some(3), None, String::new()), (Some(4), None, String::new())]);
    let joined = joiner.unmatched(JoinSide::Right, &[ids(&[5]), None], 1).unwrap();
    assert_eq!(rows(&joined), [(None, Some(5), String::new())]);
}

#[test]
fn broken_contracts_are_named() {
    let broken = |mode: &str, expected: &str| {
        let error = open(mode).pairs(&[ids(&[2, 4])], &[ids(&[6]), None], 2, 1, &[0, 1], &[0, 0]).unwrap_err();
        let PluginError::Contract { call: "pairs", message, .. } = error else { panic!("{mode}: {error}") };
        assert!(message.contains(expected), "{mode}: {message}");
        let error = open(mode).unmatched(JoinSide::Left, &[ids(&[2, 4])], 2).unwrap_err();
        let PluginError::Contract { call: "unmatched", message, .. } = error else { panic!("{mode}: {error}") };
        assert!(message.contains(expected), "{mode}: {message}");
    };
    broken("origins-decrease", "origins decrease after output row 0");
    broken("origins-far", "output row 1 has origin 2, there are 2");
    broken("columns", "returned 1 columns, its signature has 3");
    let error = factory().open("{}", &schema(), &Schema::default()).err().unwrap();
    assert_eq!(error.to_string(), "plugin `guest` refused its input: both sides need an `id`");
}

/// The host's own mistakes do not reach the guest.
#[test]
fn pairs_name_rows_that_exist() {
    let wrong = |left_rows: &[u32], right_rows: &[u32], expected: &str| {
        let error = open("normal").pairs(&[ids(&[2])], &[ids(&[6]), None], 1, 1, left_rows, right_rows).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    wrong(&[0, 0], &[0], "2 left rows for 1 right rows");
    wrong(&[1], &[0], "a pair with left row 1, there are 1");
    wrong(&[0], &[3], "a pair with right row 3, there are 1");
}

#[test]
fn every_kind_can_be_inspected() {
    let found = inspect(&engine(), &artifact("join")).unwrap();
    assert_eq!((found.kind, found.info.name.as_str()), (Kind::Join, "test-join"));
    assert_eq!(found.wit_version, "0.1.0-dev.3");
    let found = inspect(&engine(), &artifact("transform")).unwrap();
    assert_eq!((found.kind, found.info.name.as_str()), (Kind::Transform, "test-transform"));

    let shape_of = |name| shape(&engine(), &artifact(name), "{}", &schema(), &schema()).unwrap();
    let Shape::Join(join) = shape_of("join") else { panic!("not a join") };
    assert_eq!((join.left.len(), join.right.len(), join.output.fields.len()), (1, 2, 3));
    let Shape::Transform(transform) = shape_of("transform") else { panic!("not a transform") };
    assert_eq!(transform.output.fields[0], Field::new("word", DataType::String, false));
    let Shape::Aggregation(aggregation) = shape_of("aggregation") else { panic!("not an aggregation") };
    assert_eq!(aggregation.state.fields.len(), 3);
}
