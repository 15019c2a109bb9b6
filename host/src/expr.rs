//! SQL expressions over the columns of a batch: parsed, checked against the columns, and evaluated, by DataFusion.
//!
//! ```text
//!   text ─ parse ─▶ names: columns, functions ─▶ types coerced, constants folded ─▶ Expression ─ batch ─▶ column
//! ```
//!
//! An expression is a pure function of one row: no aggregates, no subqueries, and nothing whose answer changes when the
//! same row is read again after a restart. A name is a column exactly as it is spelled; types are named as in the pipeline
//! file (`cast(x AS long)`) or as in SQL. Integer arithmetic that overflows is an error, never another number.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType as ArrowType, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SessionConfig, SessionState};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, ExprWithAlias};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use millrace_core::schema::{DataType, Schema};

mod names;
#[cfg(test)]
mod tests;
mod types;

/// A value per row.
#[derive(Clone, Debug)]
pub struct Expression {
    physical: Arc<dyn PhysicalExpr>,
    pub data_type: DataType,
    pub nullable: bool,
}

/// A condition per row; null counts as false.
#[derive(Clone, Debug)]
pub struct Filter {
    physical: Arc<dyn PhysicalExpr>,
}

/// Why a text is no expression over these columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub hint: Option<String>,
    /// bytes of the text, where known
    pub place: Option<Range<usize>>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self { message: message.into(), hint, place: None }
    }
}

/// The functions and the settings are the same for all expressions.
static STATE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut config = SessionConfig::new();
    let parser = &mut config.options_mut().sql_parser;
    // a column is found under the very name that the pipeline file gives it
    parser.enable_ident_normalization = false;
    parser.map_string_types_to_utf8view = false;
    SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_type_planner(Arc::new(types::SpecTypes))
        .build()
});

impl Expression {
    pub fn new(sql: &str, input: &Schema) -> Result<Self, Wrong> {
        let arrow = input.to_arrow();
        let (physical, nullable) = plan(sql, input, &arrow)?;
        let found = physical.data_type(&arrow).map_err(|e| refused(&e))?;
        let data_type = types::column_type(&found).map_err(|hint| {
            Wrong::new(format!("the result is of type {found}, which no column can have"), Some(hint))
        })?;
        let expression = Self { physical, data_type, nullable };
        // what fails without a row fails with every row
        expression.evaluate(&RecordBatch::new_empty(arrow)).map_err(always_fails)?;
        Ok(expression)
    }

    /// One value per row, of the Arrow type of [`Expression::data_type`]. The error is the expression's: a row's value is
    /// divided by zero, or cannot be cast.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, String> {
        let values = evaluate(&*self.physical, rows)?;
        let wanted = self.data_type.to_arrow();
        if values.data_type() == &wanted {
            return Ok(values);
        }
        let exact = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&values, &wanted, &exact).map_err(|e| e.to_string())
    }
}

impl Filter {
    pub fn new(sql: &str, input: &Schema) -> Result<Self, Wrong> {
        let arrow = input.to_arrow();
        let (physical, _) = plan(sql, input, &arrow)?;
        let found = physical.data_type(&arrow).map_err(|e| refused(&e))?;
        if found != ArrowType::Boolean {
            let found = types::column_type(&found).map_or_else(|_| found.to_string(), |t| t.to_string());
            let hint = "compare it with something: `… = …`, `… IS NOT NULL`".to_owned();
            return Err(Wrong::new(format!("a filter is true or false, and this is of type {found}"), Some(hint)));
        }
        let filter = Self { physical };
        filter.evaluate(&RecordBatch::new_empty(arrow)).map_err(always_fails)?;
        Ok(filter)
    }

    /// True for the rows that pass; may hold nulls.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray, String> {
        Ok(evaluate(&*self.physical, rows)?.as_boolean().clone())
    }
}

fn evaluate(physical: &dyn PhysicalExpr, rows: &RecordBatch) -> Result<ArrayRef, String> {
    let values = physical.evaluate(rows).map_err(|e| words(&e))?;
    values.into_array_of_size(rows.num_rows()).map_err(|e| words(&e))
}

fn always_fails(reason: String) -> Wrong {
    Wrong::new(format!("this fails whatever the row: {reason}"), None)
}

/// The physical expression, and whether it can be null.
fn plan(sql: &str, input: &Schema, arrow: &SchemaRef) -> Result<(Arc<dyn PhysicalExpr>, bool), Wrong> {
    let mut parsed = parse(sql)?;
    names::columns_first(&mut parsed, input);
    names::check(&parsed, sql, input, &STATE)?;
    let columns = DFSchema::try_from(Arc::clone(arrow)).map_err(|e| refused(&e))?;
    let context = SimplifyContext::default()
        .with_schema(Arc::new(columns.clone()))
        .with_config_options(Arc::clone(STATE.config_options()));
    let simplifier = ExprSimplifier::new(context);
    let build = || -> Result<(Arc<dyn PhysicalExpr>, bool), DataFusionError> {
        let logical = STATE.create_logical_expr_from_sql_expr(ExprWithAlias { expr: parsed, alias: None }, &columns)?;
        let coerced = simplifier.coerce(logical, &columns)?;
        let nullable = coerced.nullable(&columns)?;
        let simple: Expr = simplifier.simplify(coerced)?;
        let physical = create_physical_expr(&simple, &columns, STATE.execution_props())?;
        Ok((checked_arithmetic(physical)?, nullable))
    };
    build().map_err(|e| refused(&e))
}

pub(crate) fn parse(sql: &str) -> Result<SqlExpr, Wrong> {
    let failed = |message: &str| {
        let text = message.strip_prefix("sql parser error: ").unwrap_or(message);
        let (text, place) = match text.rsplit_once(" at Line: 1, Column: ") {
            Some((text, column)) => (text, column.parse().ok().map(|column| place(sql, column, 1))),
            None => (text, None),
        };
        Wrong { place, ..Wrong::new(format!("not an SQL expression: {text}"), None) }
    };
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(sql).map_err(|e| failed(&e.to_string()))?;
    let parsed = parser.parse_expr().map_err(|e| failed(&e.to_string()))?;
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(parsed);
    }
    let column = usize::try_from(next.span.start.column).unwrap_or(1);
    let place = (next.span.start.line == 1).then(|| place(sql, column, next.token.to_string().chars().count()));
    Err(Wrong { place, ..Wrong::new(format!("the expression ends before `{}`", next.token), None) })
}

/// The bytes of so many characters from a column (from 1) of a text.
pub(crate) fn place(sql: &str, column: usize, chars: usize) -> Range<usize> {
    let at = |n: usize| sql.char_indices().nth(n).map_or(sql.len(), |(byte, _)| byte);
    let from = at(column.saturating_sub(1));
    from..at(column.saturating_sub(1).saturating_add(chars))
}

/// DataFusion's own arithmetic wraps around.
fn checked_arithmetic(physical: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let checked = physical.transform_up(|node| {
        let arithmetic = |b: &&BinaryExpr| matches!(b.op(), Operator::Plus | Operator::Minus | Operator::Multiply);
        Ok(match node.as_any().downcast_ref::<BinaryExpr>().filter(arithmetic) {
            Some(binary) => Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as _),
            None => Transformed::no(node),
        })
    })?;
    Ok(checked.data)
}

fn refused(error: &DataFusionError) -> Wrong {
    Wrong::new(words(error), None)
}

/// Every layer of DataFusion's errors repeats the words of the one below.
fn words(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::Plan(text) | DataFusionError::Execution(text) | DataFusionError::NotImplemented(text) => {
            text.clone()
        }
        other => other.to_string(),
    }
}
