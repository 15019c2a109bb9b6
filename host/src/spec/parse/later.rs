//! Sections that the pipeline file has and this release cannot run yet: lookups, joins. They are refused by
//! name; their nodes and inputs are known all the same, so that the rest of the file is checked against them.

use super::{Node, Section};
use crate::spec::cursor::Cursor;
use crate::spec::diagnostic::Diagnostic;

pub fn sections(root: &Cursor<'_>, nodes: &mut Vec<Node>) {
    for section in [Section::Lookups, Section::Joins] {
        for (name, c) in root.tables(section.key(), section.noun()) {
            root.report(
                Diagnostic::error(
                    c.own_span(),
                    format!("`[{}.{name}]`: {} are not supported yet", section.key(), section.key()),
                )
                .hint("the table is part of the pipeline file, but this release cannot run it: take it out"),
            );
            let inputs = if section == Section::Joins {
                ["left", "right"]
                    .into_iter()
                    .filter_map(|side| Some((c.string(side)?, vec![side.to_owned()])))
                    .collect()
            } else {
                super::numbered(c.strings("inputs").unwrap_or_default())
            };
            c.skip_rest();
            nodes.push(Node { name, section, inputs, output: None });
        }
    }
}
