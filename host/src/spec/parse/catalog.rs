//! `[catalogs.NAME]`: where Iceberg tables are known by name.

use crate::spec::cursor::{Cursor, Word};
use crate::spec::model::{CatalogKind, CatalogSpec};
use crate::spec::paths;

pub fn read(name: &str, c: &Cursor<'_>) -> Option<CatalogSpec> {
    let kinds = [
        ("sql", Word::Now(CatalogKind::Sql)),
        ("rest", Word::Now(CatalogKind::Rest)),
        ("glue", Word::Later),
        ("s3tables", Word::Later),
        ("hms", Word::Later),
        ("memory", Word::Later),
    ];
    let kind = c.required("type", |c, key| c.choice(key, &kinds));
    let Some(kind) = kind else {
        c.skip_rest();
        return None;
    };
    let uri = c.required("uri", Cursor::string).and_then(|uri| check_uri(c, kind, uri));
    // a REST catalog may name the warehouse itself
    let warehouse = match kind {
        CatalogKind::Sql => c.required("warehouse", Cursor::string),
        CatalogKind::Rest if c.has("warehouse") => c.string("warehouse"),
        CatalogKind::Rest => Some(String::new()),
    };
    let warehouse = warehouse.and_then(|text| match kind {
        // what a REST server calls its warehouse is its own affair
        CatalogKind::Rest if paths::scheme(&text).is_none() && !text.starts_with(['.', '/']) => Some(text),
        _ => match paths::warehouse(&c.doc.dir, &text) {
            Ok(warehouse) => Some(warehouse),
            Err(bad) => {
                c.wrong(&["warehouse"], bad.message, bad.hint);
                None
            }
        },
    });
    let properties = c.string_map("properties");
    c.finish();
    Some(CatalogSpec { name: name.to_owned(), kind, uri: uri?, warehouse: warehouse?, properties })
}

fn check_uri(c: &Cursor<'_>, kind: CatalogKind, uri: String) -> Option<String> {
    match kind {
        CatalogKind::Sql => match paths::sqlite(&c.doc.dir, &uri) {
            Ok(uri) => Some(uri),
            Err(bad) => {
                c.wrong(&["uri"], bad.message, bad.hint);
                None
            }
        },
        CatalogKind::Rest => {
            if uri.starts_with("http://") || uri.starts_with("https://") {
                return Some(uri);
            }
            c.wrong(
                &["uri"],
                format!("`{uri}` is not the address of a REST catalog"),
                "write `uri = \"https://host/path\"`",
            );
            None
        }
    }
}
