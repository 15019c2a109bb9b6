//! The example of docs/plugins.md is this code, and does what is said there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use millrace_plugin::aggregation::{Accumulator, Plugin};
use millrace_plugin::column::{BytesRef, ColumnData, ColumnRef, DataRef, DataType, Field};
use millrace_plugin::prelude::Origin;

// laid out as in the page
#[rustfmt::skip]
#[path = "docs/visits.rs"]
mod visits;

type Visits = <visits::Visits as Plugin>::Accumulator;

#[test]
fn the_page_shows_this_code() {
    let (page, code) = (include_str!("../../../docs/plugins.md"), include_str!("docs/visits.rs"));
    assert!(page.contains(&format!("```rust\n{code}```\n")), "docs/plugins.md shows another example");
}

/// One row of old state: the first column, a set of two users, and what else there is.
fn migrated(version: &str, first: (&str, DataType, DataRef<'_>), more: &[(&str, DataRef<'_>)]) -> Option<[i64; 2]> {
    let users = DataRef::ListUtf8 { offsets: &[0, 2], values: BytesRef { offsets: &[0, 3, 6], data: b"annbob" } };
    let mut state = vec![
        Field::new(first.0, first.1, false),
        Field::new("users.values", DataType::ListUtf8, true),
        Field::new("users.sketch", DataType::Binary, true),
    ];
    let column = |data| ColumnRef { data, validity: None };
    let sketch = DataRef::Binary(BytesRef { offsets: &[0, 0], data: &[] });
    let mut columns = vec![column(first.2), column(users), ColumnRef { data: sketch, validity: Some(&[0]) }];
    for (name, data) in more {
        state.push(Field::new(*name, DataType::Int64, false));
        columns.push(column(*data));
    }
    let origin = Origin { name: "visits".into(), version: version.into(), config: "{}".into(), state };
    let offered = [Field::new("user", DataType::Utf8, false), Field::new("seconds", DataType::Float64, false)];
    let migrated = Visits::open("", &offered).unwrap().migrate(&origin, &columns).unwrap()?;
    let [ColumnData::Int64(visits), ColumnData::Float64(longest)] = [0, 3].map(|i| migrated[i].data.clone()) else {
        return None;
    };
    assert_eq!((visits.len(), longest), (1, vec![0.0]));
    let ColumnData::ListUtf8(users) = &migrated[1].data else { return None };
    Some([visits[0], i64::from(users.offsets[1])])
}

#[test]
fn the_example_does_what_the_page_says() {
    let count = ("count", DataType::Int64, DataRef::Int64(&[7]));
    let visits = ("visits", DataType::Int32, DataRef::Int32(&[8]));
    let bounces = ("bounces", DataRef::Int64(&[3]));
    assert_eq!(migrated("1.4.0", count, &[]), Some([7, 2]));
    assert_eq!(migrated("2.0.0", count, &[]), None);
    assert_eq!(migrated("2.0.0", visits, &[]), Some([8, 2]));
    assert_eq!(migrated("2.3.1", visits, &[bounces]), Some([8, 2]));
    assert_eq!(migrated("2.3.1", visits, &[("other", DataRef::Int64(&[3]))]), None);
}
