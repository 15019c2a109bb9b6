//! `sum(c)` and `avg(c)`. Sums are checked: a row that would take one out of its type's range is refused.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{ArrayRef, Decimal128Array, Float64Array, PrimitiveArray};
use arrow_buffer::i256;
use millrace_core::schema::DataType;

use super::count::Count;
use super::state::{Entry, Risk, Rows, State, state_column};
use super::{Fallible, typed};

/// A type that can be summed up, and the type of its sums.
pub(super) trait Summand: ArrowPrimitiveType {
    type Sum: ArrowPrimitiveType;
    fn widen(value: Self::Native) -> <Self::Sum as ArrowPrimitiveType>::Native;
    /// none: out of range
    fn add(
        a: <Self::Sum as ArrowPrimitiveType>::Native,
        b: <Self::Sum as ArrowPrimitiveType>::Native,
    ) -> Option<<Self::Sum as ArrowPrimitiveType>::Native>;
    /// none: a sum of these has no range that it could leave
    fn exact(sum: <Self::Sum as ArrowPrimitiveType>::Native) -> Option<i128>;
}

macro_rules! summand {
    ($from:ty => $to:ty, $add:expr, $exact:expr) => {
        impl Summand for $from {
            type Sum = $to;
            #[inline]
            fn widen(value: Self::Native) -> <$to as ArrowPrimitiveType>::Native {
                value.into()
            }
            #[inline]
            fn add(
                a: <$to as ArrowPrimitiveType>::Native,
                b: <$to as ArrowPrimitiveType>::Native,
            ) -> Option<<$to as ArrowPrimitiveType>::Native> {
                $add(a, b)
            }
            #[inline]
            fn exact(sum: <$to as ArrowPrimitiveType>::Native) -> Option<i128> {
                $exact(sum)
            }
        }
    };
}

summand!(Int32Type => Int64Type, i64::checked_add, |sum: i64| Some(sum.into()));
summand!(Int64Type => Int64Type, i64::checked_add, |sum: i64| Some(sum.into()));
summand!(Float32Type => Float64Type, |a: f64, b: f64| Some(a + b), |_| None);
summand!(Float64Type => Float64Type, |a: f64, b: f64| Some(a + b), |_| None);
summand!(Decimal128Type => Decimal128Type, i128::checked_add, Some);

type SumOf<T> = <<T as Summand>::Sum as ArrowPrimitiveType>::Native;

pub(super) struct Sum<T: Summand> {
    /// none: no value yet
    sums: Vec<Option<SumOf<T>>>,
    data_type: DataType,
    arrow: arrow_schema::DataType,
    /// sums stay between minus this and this
    most: i128,
    /// no sum is further from zero than this; none: unknown
    bound: Option<i128>,
}

impl<T: Summand> Sum<T> {
    fn new(data_type: DataType) -> Self {
        let most = match data_type {
            DataType::Decimal { precision, .. } => 10_i128.checked_pow(precision.into()).unwrap_or(i128::MAX) - 1,
            _ => i64::MAX.into(),
        };
        Self { sums: Vec::new(), data_type, arrow: data_type.to_arrow(), most, bound: Some(0) }
    }

    fn out_of_range(&self) -> String {
        format!("a sum would leave the range of {}", self.data_type)
    }

    #[inline]
    fn add(&mut self, slot: usize, value: SumOf<T>) -> Fallible<()> {
        let Some(sum) = self.sums.get_mut(slot) else { return Ok(()) };
        let added = match *sum {
            None => Some(value),
            Some(sum) => T::add(sum, value),
        };
        match added {
            Some(added) if T::exact(added).is_none_or(|sum| (-self.most..=self.most).contains(&sum)) => {
                *sum = Some(added);
                Ok(())
            }
            _ => Err(self.out_of_range()),
        }
    }

    /// How far from zero a sum is at most.
    fn furthest(&self) -> i128 {
        let exact = self.sums.iter().flatten().filter_map(|sum| T::exact(*sum));
        exact.map(|sum| sum.saturating_abs()).max().unwrap_or(0)
    }

    fn of(&self, slot: usize) -> Option<SumOf<T>> {
        self.sums.get(slot).copied().flatten()
    }

    fn array(&self, slots: impl Iterator<Item = Option<usize>>) -> ArrayRef {
        let array: PrimitiveArray<T::Sum> = slots.map(|slot| self.of(slot?)).collect();
        typed(array, &self.arrow)
    }
}

impl<T: Summand> State for Sum<T> {
    fn grow(&mut self, slots: usize) {
        self.sums.resize(slots, None);
    }

    fn risk(&mut self, rows: &Rows<'_>) -> Fallible<Option<Risk>> {
        let values = numbers::<T>(rows)?;
        let exact = |value: T::Native| T::exact(T::widen(value));
        let Some(largest) = values.iter().map(|v| exact(*v).map(i128::unsigned_abs)).max().flatten() else {
            return Ok(None);
        };
        let most_added = largest.saturating_mul(values.len() as u128);
        let most_added = i128::try_from(most_added).unwrap_or(i128::MAX);
        let bound = self.bound.unwrap_or_else(|| self.furthest()).saturating_add(most_added);
        if bound <= self.most {
            self.bound = Some(bound);
            return Ok(None);
        }
        // the bound grows with every call: from time to time the sums themselves tell better
        let bound = self.furthest().saturating_add(most_added);
        self.bound = (bound <= self.most).then_some(bound);
        if self.bound.is_some() {
            return Ok(None);
        }
        let mut counted = vec![None; values.len()];
        rows.each(|row, _| {
            if let (Some(counted), Some(value)) = (counted.get_mut(row), values.get(row)) {
                *counted = exact(*value);
            }
            Ok(())
        })?;
        let sums = self.sums.iter().map(|sum| sum.and_then(T::exact).unwrap_or_default()).collect();
        let reason = format!("{}; cast its column to a wider type upstream", self.out_of_range());
        Ok(Some(Risk { sums, values: counted, most: self.most, reason }))
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        let values = numbers::<T>(rows)?;
        rows.each(|row, slot| match values.get(row) {
            Some(value) => self.add(slot, T::widen(*value)),
            None => Ok(()),
        })
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        self.bound = None;
        let sums = state_column(state, 0)?.as_primitive_opt::<T::Sum>().ok_or("a sum is of another type")?;
        for (sum, &slot) in sums.iter().zip(groups) {
            if let Some(sum) = sum {
                self.add(slot as usize, sum)?;
            }
        }
        Ok(())
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        self.bound = None;
        self.of(source).map_or(Ok(()), |sum| self.add(target, sum))
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        Ok(vec![self.array(entries.iter().map(|e| (e.part == 0).then_some(e.slot)))])
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        Ok(self.array(groups.iter().map(|&g| Some(g as usize))))
    }

    fn reset(&mut self, slot: usize) {
        if let Some(sum) = self.sums.get_mut(slot) {
            *sum = None;
        }
    }

    fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<Option<SumOf<T>>>()
    }
}

fn numbers<'a, T: Summand>(rows: &Rows<'a>) -> Fallible<&'a [T::Native]> {
    let values = rows.values.and_then(|v| v.as_primitive_opt::<T>());
    Ok(values.ok_or("a column to sum up is of another type")?.values())
}

/// The type of the sums of a type; none: it cannot be summed up.
pub(super) fn sum_type(of: DataType) -> Option<DataType> {
    Some(match of {
        DataType::Int | DataType::Long => DataType::Long,
        DataType::Float | DataType::Double => DataType::Double,
        DataType::Decimal { precision, scale } => DataType::Decimal { precision: (precision + 10).min(38), scale },
        _ => return None,
    })
}

/// The type of the averages of a type: a decimal has four more digits after the point where 38 in all allow it.
pub(super) fn avg_type(of: DataType) -> Option<DataType> {
    Some(match of {
        DataType::Decimal { precision, scale } => {
            let wider = (precision + 4).min(38);
            DataType::Decimal { precision: wider, scale: scale + (wider - precision) }
        }
        DataType::Int | DataType::Long | DataType::Float | DataType::Double => DataType::Double,
        _ => return None,
    })
}

/// An empty sum of values of type `of`.
pub(super) fn sum(of: DataType) -> Option<Box<dyn State>> {
    let total = sum_type(of)?;
    Some(match of {
        DataType::Int => Box::new(Sum::<Int32Type>::new(total)),
        DataType::Long => Box::new(Sum::<Int64Type>::new(total)),
        DataType::Float => Box::new(Sum::<Float32Type>::new(total)),
        DataType::Double => Box::new(Sum::<Float64Type>::new(total)),
        DataType::Decimal { .. } => Box::new(Sum::<Decimal128Type>::new(total)),
        _ => return None,
    })
}

/// Sum and count; the sum is in the sum's own type, so that nothing is lost before the division.
pub(super) struct Avg {
    sum: Box<dyn State>,
    count: Count,
    output: DataType,
    /// digits after the point that the average has more than the sum
    more_scale: u32,
}

impl Avg {
    pub(super) fn new(of: DataType) -> Option<Self> {
        let output = avg_type(of)?;
        let more_scale = match (of, output) {
            (DataType::Decimal { scale, .. }, DataType::Decimal { scale: wider, .. }) => u32::from(wider - scale),
            _ => 0,
        };
        Some(Self { sum: sum(of)?, count: Count::default(), output, more_scale })
    }
}

impl State for Avg {
    fn grow(&mut self, slots: usize) {
        self.sum.grow(slots);
        self.count.grow(slots);
    }

    fn risk(&mut self, rows: &Rows<'_>) -> Fallible<Option<Risk>> {
        self.sum.risk(rows)
    }

    fn update(&mut self, rows: &Rows<'_>) -> Fallible<()> {
        self.sum.update(rows)?;
        self.count.update(rows)
    }

    fn merge(&mut self, state: &[ArrayRef], groups: &[u32]) -> Fallible<()> {
        let (sum, count) = state.split_at_checked(1).ok_or("state columns are missing")?;
        self.sum.merge(sum, groups)?;
        self.count.merge(count, groups)
    }

    fn combine(&mut self, source: usize, target: usize) -> Fallible<()> {
        self.sum.combine(source, target)?;
        self.count.combine(source, target)
    }

    fn export(&mut self, entries: &[Entry]) -> Fallible<Vec<ArrayRef>> {
        let mut columns = self.sum.export(entries)?;
        columns.extend(self.count.export(entries)?);
        Ok(columns)
    }

    fn evaluate(&mut self, groups: &[u32]) -> Fallible<ArrayRef> {
        let sums = self.sum.evaluate(groups)?;
        let counts = groups.iter().map(|&g| self.count.of(g as usize));
        if let Some(sums) = sums.as_primitive_opt::<Decimal128Type>() {
            let averages: Decimal128Array =
                sums.iter().zip(counts).map(|(sum, count)| decimal_average(sum?, count, self.more_scale)).collect();
            return Ok(typed(averages, &self.output.to_arrow()));
        }
        let sums = arrow_cast::cast(&sums, &arrow_schema::DataType::Float64).map_err(|e| e.to_string())?;
        let sums = sums.as_primitive_opt::<Float64Type>().ok_or("a sum is no number")?;
        #[allow(clippy::cast_precision_loss, reason = "an average is a double, whose precision is what it is")]
        let averages: Float64Array = sums.iter().zip(counts).map(|(sum, count)| Some(sum? / count as f64)).collect();
        Ok(Arc::new(averages))
    }

    fn reset(&mut self, slot: usize) {
        self.sum.reset(slot);
        self.count.reset(slot);
    }

    fn bytes(&self) -> usize {
        self.sum.bytes() + self.count.bytes()
    }
}

/// Half away from zero; an average is never larger than the largest value, so it fits.
fn decimal_average(sum: i128, count: i64, more_scale: u32) -> Option<i128> {
    let sum = i256::from_i128(sum).checked_mul(i256::from_i128(10).checked_pow(more_scale)?)?;
    let count = i256::from_i128(count.into());
    let half = count.checked_div(i256::from_i128(2))?;
    let towards = if sum < i256::ZERO { sum.checked_sub(half)? } else { sum.checked_add(half)? };
    towards.checked_div(count)?.to_i128()
}
