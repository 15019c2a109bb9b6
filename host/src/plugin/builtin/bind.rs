//! Aggregates against the columns that there are: types in, state, types out.

use millrace_core::schema::{DataType, Field, Schema};

use super::count::Count;
use super::filter::Filter;
use super::state::State;
use super::{Aggregate, Function, distinct, extreme, sum};
use crate::plugin::{Signature, Wanted};
use crate::spec::suggest;

/// An aggregate that does not fit the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// the aggregate's name
    pub name: String,
    pub message: String,
    pub hint: Option<String>,
}

/// An aggregate with its empty state.
pub(super) struct Bound {
    pub name: String,
    pub argument: Option<Field>,
    pub filter: Option<Filter>,
    pub state_fields: Vec<Field>,
    pub output: Field,
    pub state: Box<dyn State>,
}

/// What the aggregates read, keep and give.
pub fn signature(aggregates: &[Aggregate], offered: &Schema) -> Result<Signature, Vec<Wrong>> {
    bind(aggregates, offered).map(|bound| signature_of(&bound, aggregates))
}

/// In the order of their names, which is that of the state: their order in the file means nothing.
pub(super) fn bind(aggregates: &[Aggregate], offered: &Schema) -> Result<Vec<Bound>, Vec<Wrong>> {
    let (mut bound, mut wrong) = (Vec::new(), Vec::new());
    for aggregate in aggregates {
        match bind_one(aggregate, offered) {
            Ok(one) => bound.push(one),
            Err((message, hint)) => wrong.push(Wrong { name: aggregate.name.clone(), message, hint }),
        }
    }
    bound.sort_by(|a, b| a.name.cmp(&b.name));
    if wrong.is_empty() { Ok(bound) } else { Err(wrong) }
}

pub(super) fn signature_of(bound: &[Bound], aggregates: &[Aggregate]) -> Signature {
    let mut input: Vec<Wanted> = Vec::new();
    let filters = bound.iter().filter_map(|b| b.filter.as_ref()).flat_map(|f| &f.columns.fields);
    for field in bound.iter().filter_map(|b| b.argument.as_ref()).chain(filters) {
        if !input.iter().any(|w| w.field.name == field.name) {
            input.push(Wanted { field: field.clone(), dictionary: false, optional: false });
        }
    }
    let output = |a: &Aggregate| bound.iter().find(|b| b.name == a.name).map(|b| b.output.clone());
    Signature {
        input,
        state: Schema::new(bound.iter().flat_map(|b| b.state_fields.iter().cloned()).collect()),
        output: Schema::new(aggregates.iter().filter_map(output).collect()),
        ordered: false,
    }
}

type Misfit = (String, Option<String>);

fn bind_one(aggregate: &Aggregate, offered: &Schema) -> Result<Bound, Misfit> {
    let Aggregate { name, function, argument, filter } = aggregate;
    let argument = match argument {
        None => None,
        Some(column) => Some(offered.field(column).cloned().ok_or_else(|| {
            let columns = offered.fields.iter().map(|f| f.name.as_str());
            (format!("the input has no column `{column}`"), suggest::did_you_mean(column, columns))
        })?),
    };
    let filter = filter
        .as_ref()
        .map(|sql| Filter::new(sql, offered).map_err(|w| (format!("in `{sql}`: {}", w.message), w.hint)))
        .transpose()?;
    let field = |suffix: &str, data_type, nullable| Field::new(format!("{name}{suffix}"), data_type, nullable);
    let long = |state: Box<dyn State>, fields| (state, fields, field("", DataType::Long, false));
    let of = argument.as_ref().map(|f| f.data_type);
    let made = match (function, of) {
        (Function::Count, _) => Some(long(Box::<Count>::default(), vec![field("", DataType::Long, false)])),
        (_, None) => None,
        (Function::CountDistinct, Some(of)) => distinct::exact(of)
            .zip(distinct::values_type(of))
            .map(|(state, values)| long(state, vec![field(".values", values, false)])),
        (Function::ApproxDistinct, Some(of)) => {
            distinct::approximate(of).map(|state| long(state, vec![field(".sketch", DataType::Binary, true)]))
        }
        (Function::Sum, Some(of)) => sum::sum(of).zip(sum::sum_type(of)).map(|(state, total)| {
            let total = field("", total, true);
            (state, vec![total.clone()], total)
        }),
        (Function::Avg, Some(of)) => {
            sum::Avg::new(of).zip(sum::sum_type(of)).zip(sum::avg_type(of)).map(|((state, total), average)| {
                let fields = vec![field(".sum", total, true), field(".count", DataType::Long, false)];
                (Box::new(state) as Box<dyn State>, fields, field("", average, true))
            })
        }
        (Function::Min | Function::Max, Some(of)) => extreme::extreme(*function, of).map(|state| {
            let value = field("", of, true);
            (state, vec![value.clone()], value)
        }),
    };
    let (state, state_fields, output) = made.ok_or_else(|| cannot(*function, argument.as_ref()))?;
    Ok(Bound { name: name.clone(), argument, filter, state_fields, output, state })
}

fn cannot(function: Function, argument: Option<&Field>) -> Misfit {
    let column = argument.map_or("*", |f| f.name.as_str());
    let found = argument.map_or(String::new(), |f| f.data_type.to_string());
    match function {
        Function::Sum | Function::Avg => (
            format!("`{}` takes numbers, and `{column}` is of type `{found}`", function.name()),
            Some(format!(
                "declare the column as a number in the source's schema, or write `cast({column} AS double)` upstream, in `set` \
                 of a transform"
            )),
        ),
        _ => (
            format!("values of type `{found}` cannot be counted as distinct: `{column}`"),
            Some("equal floating-point values are no sure thing: use a string, an integer or a decimal".to_owned()),
        ),
    }
}
