//! What a plugin instance was told since its state last left it, in order: telling a fresh instance the same brings it to
//! where the former one was.

use std::collections::HashMap;

use arrow_array::{Array, ArrayRef};

use crate::plugin::{Aggregator, PluginError};

pub enum Told {
    /// a call of `update` that went well; rows that were refused then are refused again
    Update {
        columns: Vec<Option<ArrayRef>>,
        slots: Vec<u32>,
    },
    Merge {
        columns: Vec<ArrayRef>,
        slots: Vec<u32>,
    },
    Combine {
        sources: Vec<u32>,
        targets: Vec<u32>,
    },
    Reset {
        slots: Vec<u32>,
    },
}

#[derive(Default)]
pub struct Log {
    told: Vec<Told>,
    bytes: usize,
}

impl Log {
    pub fn push(&mut self, told: Told) {
        let bytes = |c: &ArrayRef| c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size());
        self.bytes += match &told {
            Told::Update { columns, slots } => {
                columns.iter().flatten().map(bytes).sum::<usize>() + size_of_val(slots.as_slice())
            }
            Told::Merge { columns, slots } => columns.iter().map(bytes).sum::<usize>() + size_of_val(slots.as_slice()),
            Told::Combine { sources, targets } => size_of_val(sources.as_slice()) + size_of_val(targets.as_slice()),
            Told::Reset { slots } => size_of_val(slots.as_slice()),
        };
        self.told.push(told);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.told.len()
    }

    pub fn clear(&mut self) {
        self.told.clear();
        self.bytes = 0;
    }

    pub fn tell(&self, plugin: &mut dyn Aggregator, total_slots: u32) -> Result<(), PluginError> {
        for told in &self.told {
            match told {
                Told::Update { columns, slots } => plugin.update(columns, slots, total_slots).map(|_| ())?,
                Told::Merge { columns, slots } => plugin.merge(columns, slots, total_slots)?,
                Told::Combine { sources, targets } => plugin.combine(sources, targets)?,
                Told::Reset { slots } => plugin.reset(slots)?,
            }
        }
        Ok(())
    }

    /// The last first, each with where what it put into a slot is now; at the end, where what was there before is.
    pub fn backwards<'a>(&'a self, mut look: impl FnMut(&'a Told, &Whereabouts)) -> Whereabouts {
        let mut now = Whereabouts::default();
        for told in self.told.iter().rev() {
            match told {
                Told::Update { .. } | Told::Merge { .. } => look(told, &now),
                Told::Combine { sources, targets } => {
                    for (source, target) in sources.iter().zip(targets).rev() {
                        let there = now.of(*target);
                        now.0.insert(*source, there);
                    }
                }
                Told::Reset { slots } => now.0.extend(slots.iter().map(|slot| (*slot, None))),
            }
        }
        now
    }
}

/// Where what a slot held at some time is now; none: nowhere.
#[derive(Default)]
pub struct Whereabouts(HashMap<u32, Option<u32>>);

impl Whereabouts {
    pub fn of(&self, slot: u32) -> Option<u32> {
        self.0.get(&slot).copied().unwrap_or(Some(slot))
    }
}
