//! The results that a fallback would have given, in the place of those that the active version gave: the last of each
//! group, for as long as the fallback may take over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::ArrayRef;
use millrace_core::limits::WITHHELD_RESULTS_MAX;
use millrace_core::window::Window;

use super::companion::AskedGroup;
use super::shadow::Results;

#[derive(Default)]
pub struct Withheld {
    groups: HashMap<(Vec<u8>, Window), Kept>,
    /// results that are not kept, because there are too many: how many of each window
    left: Left,
}

/// By window, how many.
pub type Left = BTreeMap<(i64, i64), u64>;

/// Key, window, and what it would have given.
pub type Group = (Vec<u8>, Window, Kept);

/// What a group's rows would have been.
pub struct Kept {
    pub columns: Arc<Vec<ArrayRef>>,
    /// in the columns
    pub rows: Vec<u32>,
    /// of what the active version gave
    pub revision: u32,
    pub present: bool,
}

impl Withheld {
    pub fn keep(&mut self, groups: &[AskedGroup], results: Results) {
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); groups.len()];
        for (row, pick) in (0_u32..).zip(&results.picks) {
            if let Some(of) = rows.get_mut(*pick as usize) {
                of.push(row);
            }
        }
        let columns = Arc::new(results.columns);
        for (group, rows) in groups.iter().zip(rows) {
            let id = (group.key.clone(), group.window);
            if self.groups.len() >= WITHHELD_RESULTS_MAX && !self.groups.contains_key(&id) {
                *self.left.entry((group.window.start_ms, group.window.end_ms)).or_default() += 1;
                continue;
            }
            let (revision, present) = (group.revision, group.present);
            self.groups.insert(id, Kept { columns: Arc::clone(&columns), rows, revision, present });
        }
    }

    pub fn remove(&mut self, key: &[u8], window: Window) {
        self.groups.remove(&(key.to_vec(), window));
    }

    /// By window, then key.
    pub fn into_groups(self) -> (Vec<Group>, Left) {
        let mut groups: Vec<_> = self.groups.into_iter().map(|((key, window), kept)| (key, window, kept)).collect();
        groups.sort_by(|(a, at, _), (b, bt, _)| (at.start_ms, at.end_ms, a).cmp(&(bt.start_ms, bt.end_ms, b)));
        (groups, self.left)
    }
}
