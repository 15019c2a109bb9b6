//! `partition_by`: `identity(c)`, `bucket(n, c)`, `truncate(n, c)`, `year(c)`, `month(c)`, `day(c)`, `hour(c)`.

use crate::spec::cursor::Cursor;
use crate::spec::model::{PartitionField, PartitionTransform};
use crate::spec::suggest;

const TRANSFORMS: [&str; 7] = ["identity", "bucket", "truncate", "year", "month", "day", "hour"];
const BUCKETS_MAX: u32 = 1_000_000;

pub fn read(c: &Cursor<'_>) -> Option<Vec<PartitionField>> {
    let mut fields: Vec<PartitionField> = Vec::new();
    let mut complete = true;
    let written = if c.has("partition_by") { c.strings("partition_by")? } else { Vec::new() };
    for (index, text) in written.iter().enumerate() {
        let keys = ["partition_by", &index.to_string()];
        match parse(text) {
            Ok(field) if fields.contains(&field) => {
                c.wrong(&keys, format!("`{text}` is there twice"), "take one of them out");
                complete = false;
            }
            Ok(field) => fields.push(field),
            Err((message, hint)) => {
                c.wrong(&keys, message, hint);
                complete = false;
            }
        }
    }
    complete.then_some(fields)
}

/// `"bucket(16, user_id)"`; else what is wrong with it, and a hint.
fn parse(text: &str) -> Result<PartitionField, (String, String)> {
    let forms = "write `identity(c)`, `bucket(n, c)`, `truncate(n, c)`, `year(c)`, `month(c)`, `day(c)` or `hour(c)`";
    let Some((name, arguments)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
        return Err((format!("`{text}` is not a partition transform"), format!("{forms}: `identity({text})`?")));
    };
    let name = name.trim();
    if !TRANSFORMS.contains(&name) {
        let hint = suggest::did_you_mean(name, TRANSFORMS).unwrap_or_else(|| forms.to_owned());
        return Err((format!("unknown partition transform `{name}`"), hint));
    }
    let (number, column) = match arguments.split_once(',') {
        Some((number, column)) => (Some(number.trim()), column.trim()),
        None => (None, arguments.trim()),
    };
    if column.is_empty() || column.contains(',') {
        return Err((format!("`{text}` names no column"), forms.to_owned()));
    }
    let width = |number: Option<&str>| {
        number.and_then(|n| n.parse::<u32>().ok()).filter(|n| (1..=BUCKETS_MAX).contains(n)).ok_or_else(|| {
            (format!("`{name}` needs a number from 1 to {BUCKETS_MAX}"), format!("for example `{name}(16, {column})`"))
        })
    };
    let transform = match name {
        "bucket" => PartitionTransform::Bucket(width(number)?),
        "truncate" => PartitionTransform::Truncate(width(number)?),
        _ if number.is_some() => {
            return Err((format!("`{name}` takes no number"), format!("write `{name}({column})`")));
        }
        "year" => PartitionTransform::Year,
        "month" => PartitionTransform::Month,
        "day" => PartitionTransform::Day,
        "hour" => PartitionTransform::Hour,
        _ => PartitionTransform::Identity,
    };
    Ok(PartitionField { column: column.to_owned(), transform })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let field = |column: &str, transform| Ok(PartitionField { column: column.into(), transform });
        assert_eq!(parse("day(ts)"), field("ts", PartitionTransform::Day));
        assert_eq!(parse("bucket(16, campaign_id)"), field("campaign_id", PartitionTransform::Bucket(16)));
        assert_eq!(parse("truncate( 4 , s )"), field("s", PartitionTransform::Truncate(4)));
        for bad in
            ["ts", "day ts", "bucket(ts)", "bucket(0, ts)", "day(3, ts)", "dya(ts)", "day()", "bucket(1, a, b)", ""]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
