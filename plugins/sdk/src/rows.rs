//! Lowers an [`Aggregation`] (one group, one row) to an [`Accumulator`] (many groups, a batch).
//!
//! Owns the slots and the shared memory of the groups' sets; every call runs with that memory as the thread's current
//! scope. The generic code is inlined into one loop per batch: no call per row crosses a boundary.

use crate::aggregation::{Accumulator, Aggregation, Origin, OutputRows, Signature, StateChunk, Window};
use crate::column::{Column, ColumnRef, Error, Field};
use crate::config::{self, Config};
use crate::distinct::scope::{self, Scope};
use crate::host::{Level, log};
use crate::input::InputRow;
use crate::migrate::{self, Own, Plan, Stop, Widened};
use crate::output::{self, OutputRow};
use crate::plugin::{Info, Rejected, Results, Verdict, check_offered};
use crate::state::{Part, State};

/// Groups of an aggregation written by row.
pub struct Rows<A: Aggregation> {
    options: A::Config,
    own: Own,
    /// none: no row seen since the last reset
    slots: Vec<Option<A>>,
    scope: Option<Box<Scope>>,
    /// memory of strings and the like within slots; none = has to be counted again
    heap_bytes: Option<u64>,
}

fn out_of_range(group: u32, total: usize) -> Error {
    Error::Input(format!("group {group} is out of range: there are {total}"))
}

impl<A: Aggregation> Rows<A> {
    fn ensure(&mut self, total: u32) {
        if self.slots.len() < total as usize {
            self.slots.resize_with(total as usize, || None);
        }
    }

    fn check(&self, groups: &[u32]) -> Result<(), Error> {
        let total = self.slots.len();
        match groups.iter().find(|g| **g as usize >= total) {
            Some(group) => Err(out_of_range(*group, total)),
            None => Ok(()),
        }
    }
}

impl<A: Aggregation> Rows<A> {
    /// Row by row. The slots are not touched; sets live in the shared memory meanwhile.
    fn migrated(&mut self, origin: &Origin, state: &[ColumnRef<'_>]) -> Result<Vec<Column>, Stop> {
        let plan = migrate::plan::<A>(&self.own, origin).map_err(Stop::Refused)?;
        let (Plan::Function(_, sources) | Plan::Fields(_, sources)) = &plan;
        let rows = migrate::rows(state).ok_or_else(|| {
            Stop::Refused("a state without a column other than booleans does not say how long it is".into())
        })?;
        let widened = Widened::new(state, sources);
        let old = widened.columns(state, sources);
        let _scope = scope::enter(&mut self.scope);
        let empty = A::new(&self.options);
        let mut columns: Vec<Column> = A::fields().iter().map(|f| Column::empty(f.data_type)).collect();
        for row in 0..rows {
            let mut old = old.iter();
            let new = match &plan {
                Plan::Function(function, _) => function(&mut old, row, origin, &self.options)?,
                Plan::Fields(lacks, _) => A::adopt(&mut old, row, lacks, A::new(&self.options))?,
            };
            // one row stays one row: it has no bound to be split at
            new.export(&empty, &mut Part::new(0, 0, usize::MAX), &mut columns.iter_mut());
        }
        scope::with(Scope::collect);
        Ok(columns)
    }
}

impl<A: Aggregation> Accumulator for Rows<A> {
    fn info() -> Info {
        Info { name: A::NAME.into(), version: A::VERSION.into(), config_schema: A::Config::schema().to_string() }
    }

    fn open(config: &str, offered: &[Field]) -> Result<Self, Error> {
        let options = config::parse(config).map_err(Error::Config)?;
        check_offered(&A::Input::wanted(), offered)?;
        let own = Own::new(Self::info(), config, A::fields());
        Ok(Self { options, own, slots: Vec::new(), scope: None, heap_bytes: Some(0) })
    }

    fn signature(&self) -> Signature {
        Signature { input: A::Input::wanted(), state: A::fields(), output: A::Output::fields(), ordered: A::ORDERED }
    }

    fn update(&mut self, columns: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<Vec<Rejected>, Error> {
        self.ensure(total);
        let reader = <A::Input<'_> as InputRow<'_>>::open(columns, groups.len())?;
        let mut rejected = Vec::new();
        let _scope = scope::enter(&mut self.scope);
        self.heap_bytes = None;
        for (row, group) in groups.iter().enumerate() {
            let Some(slot) = self.slots.get_mut(*group as usize) else {
                return Err(out_of_range(*group, total as usize));
            };
            let state = slot.get_or_insert_with(|| A::new(&self.options));
            if let Some(reject) = state.update(<A::Input<'_> as InputRow<'_>>::get(&reader, row)).rejection() {
                rejected.push(Rejected { row: crate::column::offset(row), reason: reject.0 });
            }
        }
        scope::with(Scope::flush);
        Ok(rejected)
    }

    fn combine(&mut self, sources: &[u32], targets: &[u32]) -> Result<(), Error> {
        if sources.len() != targets.len() {
            return Err(Error::Input(format!("{} sources for {} targets", sources.len(), targets.len())));
        }
        self.check(sources)?;
        self.check(targets)?;
        let _scope = scope::enter(&mut self.scope);
        self.heap_bytes = None;
        for (source, target) in sources.iter().zip(targets) {
            if source == target {
                return Err(Error::Input(format!("group {source} cannot be folded into itself")));
            }
            let Some(from) = self.slots.get_mut(*source as usize).and_then(Option::take) else { continue };
            if let Some(slot) = self.slots.get_mut(*target as usize) {
                slot.get_or_insert_with(|| A::new(&self.options)).merge(&from);
            }
            if let Some(slot) = self.slots.get_mut(*source as usize) {
                *slot = Some(from);
            }
        }
        Ok(())
    }

    fn merge(&mut self, state: &[ColumnRef<'_>], groups: &[u32], total: u32) -> Result<(), Error> {
        let wanted = A::fields();
        if state.len() != wanted.len() {
            return Err(Error::Input(format!("the state has {} columns, not {}", state.len(), wanted.len())));
        }
        self.ensure(total);
        self.check(groups)?;
        let _scope = scope::enter(&mut self.scope);
        self.heap_bytes = None;
        for (row, group) in groups.iter().enumerate() {
            let part = A::import(&mut state.iter(), row)?;
            match self.slots.get_mut(*group as usize) {
                Some(Some(slot)) => slot.merge(&part),
                Some(empty) => *empty = Some(part),
                None => return Err(out_of_range(*group, total as usize)),
            }
        }
        scope::with(Scope::collect);
        Ok(())
    }

    /// The cursor: in the high half which of the groups, in the low half where in its sets.
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the cursor")]
    fn state(&mut self, groups: &[u32], cursor: u64, bytes_max: u64) -> Result<StateChunk, Error> {
        self.check(groups)?;
        let _scope = scope::enter(&mut self.scope);
        let empty = A::new(&self.options);
        let mut columns: Vec<Column> = A::fields().iter().map(|f| Column::empty(f.data_type)).collect();
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let (mut index, mut position) = ((cursor >> 32) as usize, cursor as u32 as usize);
        let mut chunk = StateChunk { columns: Vec::new(), groups: Vec::new(), next: None };
        let mut bytes = 0;
        while let Some(group) = groups.get(index) {
            if bytes >= bytes_max && !chunk.groups.is_empty() {
                chunk.next = Some(((index as u64) << 32) | position as u64);
                break;
            }
            // a group without a row is exported, too: it comes back as empty as it was
            let state = self.slots.get(*group as usize).and_then(Option::as_ref).unwrap_or(&empty);
            let mut part = Part::new(position, bytes, bytes_max);
            state.export(&empty, &mut part, &mut columns.iter_mut());
            chunk.groups.push(*group);
            bytes = part.bytes();
            (index, position) = match part.next() {
                Some(rest) => (index, rest),
                None => (index + 1, 0),
            };
        }
        chunk.columns = columns;
        Ok(chunk)
    }

    fn evaluate(&mut self, groups: &[u32], windows: &[Window]) -> Result<OutputRows, Error> {
        if groups.len() != windows.len() {
            return Err(Error::Input(format!("{} windows for {} groups", windows.len(), groups.len())));
        }
        self.check(groups)?;
        let _scope = scope::enter(&mut self.scope);
        let empty = A::new(&self.options);
        let mut columns = output::columns::<A::Output>();
        let mut owners = Vec::new();
        for (group, window) in groups.iter().zip(windows) {
            let state = self.slots.get(*group as usize).and_then(Option::as_ref).unwrap_or(&empty);
            state.evaluate(window).each(|row| {
                row.push(&mut columns.iter_mut());
                owners.push(*group);
            });
        }
        Ok(OutputRows { columns, groups: (!<A::Evaluated as Results<A::Output>>::ONE).then_some(owners) })
    }

    fn reset(&mut self, groups: &[u32]) -> Result<(), Error> {
        self.check(groups)?;
        let _scope = scope::enter(&mut self.scope);
        self.heap_bytes = None;
        for group in groups {
            if let Some(slot) = self.slots.get_mut(*group as usize) {
                *slot = None;
            }
        }
        scope::with(Scope::collect);
        Ok(())
    }

    fn size(&mut self) -> u64 {
        let heap = match self.heap_bytes {
            _ if !<A as State>::HEAP => 0,
            Some(known) => known,
            None => self.slots.iter().flatten().map(|s| s.heap_bytes() as u64).sum(),
        };
        self.heap_bytes = Some(heap);
        let slots = self.slots.capacity() * size_of::<Option<A>>();
        heap + slots as u64 + self.scope.as_ref().map_or(0, |s| s.bytes() as u64)
    }

    fn migrate(&mut self, origin: &Origin, state: &[ColumnRef<'_>]) -> Result<Option<Vec<Column>>, Error> {
        match self.migrated(origin, state) {
            Ok(columns) => Ok(Some(columns)),
            Err(Stop::Broken(error)) => Err(error),
            Err(Stop::Refused(why)) => {
                let Origin { name, version, .. } = origin;
                let message = format!("state of {name} {version} is not taken over by {}: {why}", A::VERSION);
                log(Level::Warn, &message);
                Ok(None)
            }
        }
    }
}
