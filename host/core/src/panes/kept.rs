//! How groups come back from a checkpoint, and what it says has been given of them.

use super::Panes;
use crate::due::Given;
use crate::key::Keys;
use crate::ledger::Entry;
use crate::slots::TooManyGroups;
use crate::window::Window;

impl Panes {
    /// The slots of groups as a checkpoint had them.
    pub fn restore(&mut self, pane_start_ms: i64, keys: &Keys, rows: usize) -> Result<Vec<u32>, TooManyGroups> {
        let mut slots = Vec::with_capacity(rows);
        let pane = self.slicing.pane(pane_start_ms);
        let given: Vec<Window> = self.slicing.windows(pane).filter(|w| self.was_given(*w, None)).collect();
        self.enliven(pane, |window| given.contains(&window));
        self.table.slots(pane.start_ms, (0..rows).map(|row| (keys.hash(row), keys.bytes(row))), &mut slots)?;
        for slot in &slots {
            self.table.slots.restored(*slot);
        }
        Ok(slots)
    }

    pub fn restore_entry(&mut self, hash: u64, entry: &Entry) {
        // a window that has no state has nothing to correct
        if self.policy.keeps_ledger()
            && let Some(live) = self.live.get_mut(&entry.window.start_ms)
        {
            live.ledger.set(hash, &entry.key, entry.given());
        }
    }

    pub fn mark_ledger_unchanged(&mut self, start_ms: i64) {
        if let Some(live) = self.live.get_mut(&start_ms) {
            live.ledger.mark_unchanged();
        }
    }

    /// Of each window whose ledger has changed since the last call: its lines; and which stand as they were.
    pub fn take_ledgers(&mut self) -> (Vec<(i64, Vec<Entry>)>, Vec<i64>) {
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        let slicing = self.slicing;
        let starts: Vec<i64> = self.live.iter().filter(|(_, l)| !l.ledger.is_empty()).map(|(s, _)| *s).collect();
        for start_ms in starts {
            // what is said to have changed since also changes with each row
            let stale = self.live.get(&start_ms).is_some_and(|live| self.has_changed(start_ms, live.round));
            let Some(live) = self.live.get_mut(&start_ms) else { continue };
            if !live.ledger.take_changed() && !stale {
                unchanged.push(start_ms);
                continue;
            }
            let Some(live) = self.live.get(&start_ms) else { continue };
            let window = slicing.window(start_ms);
            let entry = |(hash, key, given): (u64, &[u8], Given)| {
                let of_key = self.panes_of(start_ms).filter_map(|(_, pane)| pane.find(hash, key));
                let touched = of_key.map(|slot| self.table.slots.touched(slot)).max().unwrap_or(0);
                // of what is on disk it is not known by key: at worst a row is given twice
                let spilled = self.spilled.range((window.start_ms, 0)..(window.end_ms, 0));
                let touched = spilled.map(|(_, part)| part.round).max().unwrap_or(0).max(touched);
                Entry {
                    key: key.to_vec(),
                    window: slicing.window(start_ms),
                    revision: given.revision,
                    present: given.present,
                    changed: touched > given.round,
                    last_event_ms: None,
                }
            };
            changed.push((start_ms, live.ledger.iter().map(entry).collect()));
        }
        (changed, unchanged)
    }
}
