//! Counts by event type and a sum, by hand on the columns: what `counts_by_row` is measured against.

use millrace_plugin::aggregation::{Accumulator, OutputRows, Plugin, Signature, StateChunk, Window};
use millrace_plugin::column::{Column, ColumnData, ColumnRef, DataRef, DataType, Error, Field, Wanted, bit};
use millrace_plugin::input::Strings;
use millrace_plugin::plugin::{Info, Rejected};

/// Of one group.
#[derive(Clone, Default)]
struct Slot {
    /// impressions, clicks, conversions
    events: [i64; 3],
    revenue: f64,
}

#[derive(Default)]
pub struct Counts {
    slots: Vec<Slot>,
}

impl Plugin for Counts {
    type Accumulator = Self;
}

millrace_plugin::export_aggregation!(Counts);

const NAMES: [&str; 3] = ["impressions", "clicks", "conversions"];

fn fields() -> Vec<Field> {
    let counts = NAMES.map(|name| Field::new(name, DataType::Int64, false));
    counts.into_iter().chain([Field::new("revenue", DataType::Float64, false)]).collect()
}

/// Where an event type is counted.
fn kind(event_type: &str) -> Option<usize> {
    match event_type {
        "impression" => Some(0),
        "click" => Some(1),
        "conversion" => Some(2),
        _ => None,
    }
}

fn broken(what: &str) -> Error {
    Error::Input(what.into())
}

impl Counts {
    fn slot(&mut self, group: u32) -> Result<&mut Slot, Error> {
        self.slots.get_mut(group as usize).ok_or_else(|| broken("a group is out of range"))
    }

    fn ensure(&mut self, total: u32) {
        self.slots.resize(self.slots.len().max(total as usize), Slot::default());
    }

    fn count(&mut self, group: u32, kind: Option<usize>) -> Result<(), Error> {
        let slot = self.slot(group)?;
        if let Some(count) = kind.and_then(|kind| slot.events.get_mut(kind)) {
            *count += 1;
        }
        Ok(())
    }

    fn columns(&self, groups: &[u32]) -> Vec<Column> {
        let empty = Slot::default();
        let slots = || groups.iter().map(|g| self.slots.get(*g as usize).unwrap_or(&empty));
        let column = |data| Column { data, validity: None, rows: groups.len() };
        let counts = |kind: usize| slots().map(|s| s.events.get(kind).copied().unwrap_or_default()).collect();
        let mut columns: Vec<Column> = (0..NAMES.len()).map(|k| column(ColumnData::Int64(counts(k)))).collect();
        columns.push(column(ColumnData::Float64(slots().map(|s| s.revenue).collect())));
        columns
    }
}

impl Accumulator for Counts {
    fn info() -> Info {
        Info { name: "counts".into(), version: "0.1.0".into(), config_schema: "{}".into() }
    }

    fn open(_: &str, _: &[Field]) -> Result<Self, Error> {
        Ok(Self::default())
    }

    fn signature(&self) -> Signature {
        let wanted =
            |name, data_type, nullable| Wanted { field: Field::new(name, data_type, nullable), optional: false };
        Signature {
            input: vec![wanted("event_type", DataType::Utf8, false), wanted("revenue", DataType::Float64, true)],
            state: fields(),
            output: fields(),
            ordered: false,
        }
    }

    fn update(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<Vec<Rejected>, Error> {
        let [event_type, revenue] = columns else { return Err(broken("two columns are wanted")) };
        self.ensure(total);
        match event_type.data {
            DataRef::Dictionary { keys, values } => {
                let kinds: Vec<Option<usize>> = Strings::within(values)?.iter().map(kind).collect();
                for (key, group) in keys.iter().zip(groups) {
                    self.count(*group, kinds.get(*key as usize).copied().flatten())?;
                }
            }
            DataRef::Utf8(bytes) => {
                for (event_type, group) in Strings::within(bytes)?.iter().zip(groups) {
                    self.count(*group, kind(event_type))?;
                }
            }
            _ => return Err(broken("`event_type` is no string")),
        }
        let DataRef::Float64(values) = revenue.data else { return Err(broken("`revenue` is no double")) };
        for (row, (value, group)) in values.iter().zip(groups).enumerate() {
            if revenue.validity.is_none_or(|bits| bit(bits, row)) {
                self.slot(*group)?.revenue += value;
            }
        }
        Ok(Vec::new())
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), Error> {
        for (source, target) in sources.iter().zip(targets) {
            let from = self.slot(*source)?.clone();
            let to = self.slot(*target)?;
            to.events.iter_mut().zip(from.events).for_each(|(to, from)| *to += from);
            to.revenue += from.revenue;
        }
        Ok(())
    }

    fn merge(&mut self, state: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<(), Error> {
        self.ensure(total);
        for (kind, column) in state.iter().enumerate() {
            match column.data {
                DataRef::Int64(counts) => {
                    for (count, group) in counts.iter().zip(groups) {
                        if let Some(to) = self.slot(*group)?.events.get_mut(kind) {
                            *to += count;
                        }
                    }
                }
                DataRef::Float64(sums) => {
                    for (sum, group) in sums.iter().zip(groups) {
                        self.slot(*group)?.revenue += sum;
                    }
                }
                _ => return Err(broken("a state column is of another type")),
            }
        }
        Ok(())
    }

    fn state(&mut self, groups: &[u32], _: u64, _: u64) -> Result<StateChunk, Error> {
        Ok(StateChunk { columns: self.columns(groups), groups: groups.to_vec(), next: None })
    }

    fn evaluate(&mut self, groups: &[u32], _: &[Window]) -> Result<OutputRows, Error> {
        Ok(OutputRows { columns: self.columns(groups), groups: None })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<(), Error> {
        groups.iter().try_for_each(|group| self.slot(*group).map(|slot| *slot = Slot::default()))
    }

    fn size(&mut self) -> u64 {
        (self.slots.capacity() * size_of::<Slot>()) as u64
    }
}
