//! The names in an expression: its columns are there, its functions give the same answer for the same row at any time.

use std::ops::{ControlFlow, Range};

use datafusion::execution::context::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, Ident, Query, Visit, Visitor, visit_expressions_mut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use millrace_core::schema::Schema;

use super::Wrong;
use crate::spec::suggest;

/// A word that SQL takes for a function without parentheses (`user`, `current_date`) is a column if there is one of that name.
pub fn columns_first(expr: &mut Expr, input: &Schema) {
    let _ = visit_expressions_mut(expr, |expr| {
        if let Expr::Function(function) = expr
            && matches!(function.args, FunctionArguments::None)
            && let Some(ident) = function.name.0.first().and_then(|part| part.as_ident()).cloned()
            && input.field(&ident.value).is_some()
        {
            *expr = Expr::Identifier(ident);
        }
        ControlFlow::<()>::Continue(())
    });
}

/// The first name that is wrong.
pub fn check(expr: &Expr, sql: &str, input: &Schema, state: &SessionState) -> Result<(), Wrong> {
    match expr.visit(&mut Names { sql, input, state }) {
        ControlFlow::Break(wrong) => Err(wrong),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Names<'a> {
    sql: &'a str,
    input: &'a Schema,
    state: &'a SessionState,
}

impl Visitor for Names<'_> {
    type Break = Wrong;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Wrong> {
        let hint = "an expression sees one row; rows of other tables come with a lookup or a join".to_owned();
        ControlFlow::Break(Wrong::new("a subquery cannot be used here", Some(hint)))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Wrong> {
        let found = match expr {
            Expr::Identifier(ident) => self.column(ident),
            Expr::CompoundIdentifier(parts) => self.compound(parts),
            Expr::Function(function) => self.function(function),
            _ => Ok(()),
        };
        match found {
            Err(wrong) => ControlFlow::Break(wrong),
            Ok(()) => ControlFlow::Continue(()),
        }
    }
}

impl Names<'_> {
    fn column(&self, ident: &Ident) -> Result<(), Wrong> {
        if self.input.field(&ident.value).is_some() {
            return Ok(());
        }
        let hint = if ident.quote_style == Some('"') {
            Some("a text stands between single quotes: `'…'`".to_owned())
        } else {
            suggest::did_you_mean(&ident.value, self.input.fields.iter().map(|field| field.name.as_str()))
        };
        let message = format!("the input has no column `{}`", ident.value);
        Err(Wrong { place: self.place(ident.span, &ident.value), ..Wrong::new(message, hint) })
    }

    fn compound(&self, parts: &[Ident]) -> Result<(), Wrong> {
        let name: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        let name = name.join(".");
        let hint = match self.input.field(&name) {
            Some(_) => format!("a name with a dot needs quotes: `\"{name}\"`"),
            None => "columns stand alone, without the name of a table".to_owned(),
        };
        let span = parts.first().map_or(Span::empty(), |part| part.span);
        let message = format!("the input has no column `{name}`");
        Err(Wrong { place: self.place(span, &name), ..Wrong::new(message, Some(hint)) })
    }

    fn function(&self, function: &Function) -> Result<(), Wrong> {
        let name = function.name.to_string().to_lowercase();
        let span = function.name.0.first().and_then(|part| part.as_ident()).map_or(Span::empty(), |ident| ident.span);
        let wrong = |message: String, hint: Option<String>| {
            Err(Wrong { place: self.place(span, &name), ..Wrong::new(message, hint) })
        };
        let one_row = || Some("an expression sees one row: rows are put together by an aggregation".to_owned());
        if function.over.is_some() {
            return wrong(format!("`{name}(…) OVER` looks at several rows"), one_row());
        }
        if let Some(scalar) = self.state.scalar_functions().get(&name) {
            if scalar.signature().volatility == Volatility::Immutable {
                return Ok(());
            }
            return wrong(
                format!("`{name}` answers differently each time"),
                Some(
                    "a row that is read again after a restart must give the same: use the event's own columns"
                        .to_owned(),
                ),
            );
        }
        let several =
            self.state.aggregate_functions().contains_key(&name) || self.state.window_functions().contains_key(&name);
        if several {
            return wrong(format!("`{name}` looks at several rows"), one_row());
        }
        let known = self.state.scalar_functions();
        wrong(
            format!("there is no function `{name}`"),
            suggest::closest(&name, known.keys().map(String::as_str)).map(|near| format!("did you mean `{near}`?")),
        )
    }

    fn place(&self, span: Span, name: &str) -> Option<Range<usize>> {
        (span.start.line == 1).then(|| {
            let column = usize::try_from(span.start.column).unwrap_or(1);
            super::place(self.sql, column, name.chars().count())
        })
    }
}
