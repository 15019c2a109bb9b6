use std::sync::Arc;

use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use millrace_core::schema::Field;

use super::*;

fn input() -> Schema {
    Schema::new(vec![
        Field::new("a", DataType::Int, false),
        Field::new("b", DataType::Int, true),
        Field::new("userId", DataType::String, true),
        Field::new("timestamp", DataType::Timestamptz, false),
        Field::new("revenue", DataType::Double, true),
        Field::new("user", DataType::Long, false),
    ])
}

fn rows() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![6, i32::MAX, -3])),
        Arc::new(Int32Array::from(vec![Some(2), Some(0), None])),
        Arc::new(StringArray::from(vec![Some("Ann"), None, Some("12")])),
        Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000, 86_400_000_000]).with_timezone("+00:00")),
        Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)])),
        Arc::new(Int64Array::from(vec![7, 8, 9])),
    ];
    RecordBatch::try_new(input().to_arrow(), columns).unwrap()
}

fn value(sql: &str) -> (ArrayRef, DataType, bool) {
    let expression = Expression::new(sql, &input()).unwrap_or_else(|wrong| panic!("{sql}: {wrong:?}"));
    let values = expression.evaluate(&rows()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(values.data_type(), &expression.data_type.to_arrow(), "{sql}");
    (values, expression.data_type, expression.nullable)
}

fn wrong(sql: &str) -> String {
    let wrong = Expression::new(sql, &input()).expect_err(sql);
    format!("{} | {}", wrong.message, wrong.hint.unwrap_or_default())
}

#[test]
fn values_types_and_nulls() {
    let (values, data_type, nullable) = value("coalesce(revenue, 0.0)");
    assert_eq!((data_type, nullable), (DataType::Double, false));
    assert_eq!(values.as_primitive::<Float64Type>().values()[..2], [1.5, 0.0]);
    let (values, data_type, nullable) = value("a + b");
    assert!(matches!(data_type, DataType::Int | DataType::Long) && nullable && values.is_null(2));
    let (values, data_type, _) = value("cast(a AS long) + 1");
    assert_eq!(data_type, DataType::Long);
    assert_eq!(values.as_primitive::<Int64Type>().values(), &[7, i64::from(i32::MAX) + 1, -2]);
    // a word that SQL knows, too
    assert_eq!(value("user + 1").0.as_primitive::<Int64Type>().values(), &[8, 9, 10]);
    let (values, data_type, nullable) = value("upper(\"userId\")");
    assert_eq!((data_type, nullable), (DataType::String, true));
    assert_eq!(values.as_string::<i32>().value(0), "ANN");
    let (values, data_type, _) = value("date_trunc('second', timestamp)");
    assert_eq!(data_type, DataType::Timestamptz);
    assert_eq!(values.as_primitive::<TimestampMicrosecondType>().values(), &[0, 1_000_000, 86_400_000_000]);
    assert_eq!(value("timestamp '1970-01-01T00:00:00Z'").1, DataType::Timestamp);
    assert_eq!(value("coalesce(timestamp, cast('1970-01-01T00:00:00Z' AS timestamptz))").1, DataType::Timestamptz);
    assert_eq!(value("'x'").0.len(), 3);
    assert_eq!(value("char_length(userId)").0.as_primitive::<Int32Type>().value(0), 3);
    for (sql, data_type) in [
        ("cast(a AS string)", DataType::String),
        ("cast(a AS double)", DataType::Double),
        ("cast(a AS float)", DataType::Float),
        ("cast(a AS int)", DataType::Int),
        ("cast(a AS boolean)", DataType::Boolean),
        ("cast(a AS decimal(18, 2))", DataType::Decimal { precision: 18, scale: 2 }),
        ("cast(timestamp AS date)", DataType::Date),
        ("cast(timestamp AS timestamp)", DataType::Timestamp),
        ("cast(userId AS binary)", DataType::Binary),
    ] {
        assert_eq!(value(sql).1, data_type, "{sql}");
    }
}

#[test]
fn a_filter_is_true_or_false() {
    let filter = Filter::new("a > 0 AND b <> 1", &input()).unwrap();
    let passes = filter.evaluate(&rows()).unwrap();
    let passes: Vec<bool> = passes.iter().map(|p| p == Some(true)).collect();
    assert_eq!(passes, [true, true, false]);
    assert_eq!(Filter::new("true", &input()).unwrap().evaluate(&rows()).unwrap().true_count(), 3);
    assert!(Filter::new("a + 1", &input()).unwrap_err().message.contains("true or false"));
}

#[test]
fn what_a_row_can_do_wrong_is_an_error_of_the_evaluation() {
    for (sql, reason) in [
        ("a / b", "Divide by zero"),
        ("a % b", "Divide by zero"),
        ("cast(a + cast(1 AS int) AS int)", "verflow"),
        ("cast(userId AS long)", "Ann"),
    ] {
        let expression = Expression::new(sql, &input()).unwrap();
        let error = expression.evaluate(&rows()).expect_err(sql);
        assert!(error.contains(reason), "{sql}: {error}");
    }
}

#[test]
fn what_is_refused_and_how() {
    for (sql, words) in [
        ("aa + 1", "no column `aa` | did you mean `a`"),
        ("userid", "did you mean `userId`"),
        ("userId = \"Ann\"", "single quotes"),
        ("e.a", "without the name of a table"),
        ("coalesc(a, 1)", "no function `coalesc` | did you mean `coalesce`"),
        ("sum(a)", "several rows"),
        ("row_number() OVER ()", "several rows"),
        ("random()", "differently each time"),
        ("now()", "differently each time"),
        ("current_date", "differently each time"),
        ("(SELECT 1)", "a subquery"),
        ("a IN (SELECT 1)", "a subquery"),
        ("a +", "not an SQL expression"),
        ("a b", "ends before `b`"),
        ("NULL", "cast(NULL AS string)"),
        ("[a]", "cast(… AS string)"),
        ("1 / 0", "whatever the row"),
        ("cast('x' AS int)", "Cannot cast string 'x'"),
        ("a + userId + interval '1 day'", ""),
    ] {
        let found = wrong(sql);
        assert!(found.contains(words), "{sql}: {found}");
    }
    assert_eq!(Expression::new("a + bb", &input()).unwrap_err().place, Some(4..6));
    assert_eq!(Expression::new("a b", &input()).unwrap_err().place, Some(2..3));
}
