//! From the text of an aggregate to an [`Aggregate`]: one function of one column, perhaps with a filter.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, Expr, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Visit,
    Visitor,
};

use super::{Aggregate, Function};
use crate::expr::{self, Wrong};
use crate::spec::suggest;

/// What is wrong with the text.
pub type SyntaxError = Wrong;

const NAMES: [&str; 6] = ["count", "sum", "avg", "min", "max", "approx_distinct"];
const EXAMPLE: &str = "for example `count(*)`, `sum(revenue)`, `count(distinct user_id)`";

fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
    Wrong { message: message.into(), hint: Some(hint.into()), place: None }
}

/// Reads `count(distinct user_id) filter (where event_type = 'click')` and the like.
pub fn parse(name: &str, text: &str) -> Result<Aggregate, Wrong> {
    let call = match expr::parse(text)? {
        Expr::Function(call) => call,
        Expr::BinaryOp { .. } | Expr::UnaryOp { .. } | Expr::Nested(_) | Expr::Cast { .. } => {
            return Err(wrong(
                format!("`{text}` is an expression, and an aggregate is one function of one column"),
                "give each aggregate a column of its own, and put them together downstream",
            ));
        }
        _ => return Err(wrong(format!("`{text}` is no aggregate"), EXAMPLE)),
    };
    let called = call.name.to_string();
    let (distinct, argument) = argument(&call, &called)?;
    let function = function(&called, distinct, argument.is_some()).map_err(|w| at_name(w, text, &call))?;
    refuse_clauses(&call)?;
    let filter = call.filter.as_ref().map(ToString::to_string);
    Ok(Aggregate { name: name.to_owned(), function, argument, filter })
}

fn at_name(wrong: Wrong, text: &str, call: &ast::Function) -> Wrong {
    let span = call.name.0.first().and_then(|part| part.as_ident()).map(|ident| ident.span);
    let column = span.filter(|s| s.start.line == 1).and_then(|s| usize::try_from(s.start.column).ok());
    let chars = call.name.to_string().chars().count();
    Wrong { place: column.map(|column| expr::place(text, column, chars)), ..wrong }
}

fn function(called: &str, distinct: bool, has_argument: bool) -> Result<Function, Wrong> {
    let function = match called.to_ascii_lowercase().as_str() {
        "count" if distinct => Function::CountDistinct,
        "count" => Function::Count,
        "approx_distinct" => Function::ApproxDistinct,
        "sum" => Function::Sum,
        "avg" | "mean" => Function::Avg,
        "min" => Function::Min,
        "max" => Function::Max,
        other => {
            let hint = suggest::closest(other, NAMES).map_or_else(
                || format!("there are {}; whatever else is computed per group takes a plugin", NAMES.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(wrong(format!("there is no aggregate `{called}`"), hint));
        }
    };
    if distinct && function != Function::CountDistinct {
        return Err(wrong(
            format!("`{called}(distinct …)` is not supported"),
            "`distinct` goes with `count`; for `min` and `max` it would change nothing",
        ));
    }
    if !has_argument && function != Function::Count {
        let (given, example) = if distinct { ("distinct *", "count(distinct user_id)") } else { ("*", "sum(revenue)") };
        return Err(wrong(
            format!("`{called}({given})` lacks the name of a column"),
            format!("only `count(*)` does without: for example `{example}`"),
        ));
    }
    Ok(function)
}

/// Whether `distinct` is there, and the column; none: `*`.
fn argument(call: &ast::Function, called: &str) -> Result<(bool, Option<String>), Wrong> {
    let FunctionArguments::List(FunctionArgumentList { duplicate_treatment, args, clauses }) = &call.args else {
        return Err(wrong(format!("`{called}` lacks its argument"), EXAMPLE));
    };
    if !clauses.is_empty() {
        return Err(wrong(format!("`{call}` has a clause that no aggregate here takes"), EXAMPLE));
    }
    let distinct = *duplicate_treatment == Some(DuplicateTreatment::Distinct);
    match args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] => Ok((distinct, None)),
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(column)))] => {
            Ok((distinct, Some(column.value.clone())))
        }
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)))] => {
            let name: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
            Err(wrong(
                format!("`{}` is a name with a dot", name.join(".")),
                format!("a column stands alone; one whose name has a dot needs quotes: `\"{}\"`", name.join(".")),
            ))
        }
        [] => Err(wrong(format!("`{called}` lacks its argument"), EXAMPLE)),
        [other] => Err(wrong(
            format!("the argument of `{called}` is the name of a column, not `{other}`"),
            format!(
                "compute it upstream with `set = {{ value = \"{other}\" }}` of a transform, and write `{called}(value)`"
            ),
        )),
        several => Err(wrong(
            format!("`{called}` takes one column, and here are {}", several.len()),
            "for pairs, put them together upstream: `set = { pair = \"concat(a, '|', b)\" }` of a transform",
        )),
    }
}

fn refuse_clauses(call: &ast::Function) -> Result<(), Wrong> {
    let clause = if call.over.is_some() {
        "OVER"
    } else if !call.within_group.is_empty() {
        "WITHIN GROUP"
    } else if call.null_treatment.is_some() {
        "NULLS"
    } else {
        return Ok(());
    };
    Err(wrong(
        format!("`{clause}` cannot be used in an aggregate"),
        "key and window of the aggregation say what is put together; nulls are always left out",
    ))
}

/// The names of all columns in an SQL expression.
pub(super) fn columns_of(sql: &str) -> Result<BTreeSet<String>, Wrong> {
    struct Columns(BTreeSet<String>);
    impl Visitor for Columns {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Expr::Identifier(column) = expr {
                self.0.insert(column.value.clone());
            }
            ControlFlow::Continue(())
        }
    }
    let mut columns = Columns(BTreeSet::new());
    let _ = expr::parse(sql)?.visit(&mut columns);
    Ok(columns.0)
}
