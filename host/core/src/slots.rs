//! Slots of an accumulator: which are free, and when each last took a row.
//!
//! Emissions are numbered by *rounds*. A slot remembers the round in which it was last touched; whoever has given a
//! group's result remembers the round of that: the group has changed since if the first is the larger one. Nothing has to
//! be cleared after an emission, and one pane can serve windows that gave their results at different times.

/// Slots are numbered with 32 bits.
#[derive(Debug, thiserror::Error)]
#[error("more than {} groups are open in one task", u32::MAX)]
pub struct TooManyGroups;

/// The round of what is in the state as a checkpoint had it.
pub const RESTORED_ROUND: u32 = 1;

#[derive(Debug)]
pub struct Slots {
    free: Vec<u32>,
    total: u32,
    /// by slot; 0: no row has gone in
    touched: Vec<u32>,
    round: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: Vec::new(), total: 0, touched: Vec::new(), round: RESTORED_ROUND + 1 }
    }
}

impl Slots {
    /// An empty slot.
    pub fn take(&mut self) -> Result<u32, TooManyGroups> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = self.total;
        self.total = slot.checked_add(1).ok_or(TooManyGroups)?;
        self.touched.push(0);
        Ok(slot)
    }

    /// Gives slots back that the accumulator has reset.
    pub fn release(&mut self, slots: impl IntoIterator<Item = u32>) {
        for slot in slots {
            if let Some(touched) = self.touched.get_mut(slot as usize) {
                *touched = 0;
            }
            self.free.push(slot);
        }
    }

    /// One more than the largest slot ever given out.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// A row has gone in, in this round.
    #[inline]
    pub fn touch(&mut self, slot: u32) {
        if let Some(touched) = self.touched.get_mut(slot as usize) {
            *touched = self.round;
        }
    }

    /// What it holds is another result than before, if it holds any.
    pub fn touch_again(&mut self, slot: u32) {
        if self.is_live(slot) {
            self.touch(slot);
        }
    }

    /// It holds what a checkpoint had.
    pub fn restored(&mut self, slot: u32) {
        if let Some(touched) = self.touched.get_mut(slot as usize) {
            *touched = (*touched).max(RESTORED_ROUND);
        }
    }

    /// The round in which a row last went in; 0: none has (a group of nothing but refused rows has no result).
    #[inline]
    pub fn touched(&self, slot: u32) -> u32 {
        self.touched.get(slot as usize).copied().unwrap_or(0)
    }

    /// It holds what was moved to disk when it had last been touched in this round.
    pub(crate) fn set_touched(&mut self, slot: u32, round: u32) {
        if let Some(touched) = self.touched.get_mut(slot as usize) {
            *touched = round;
        }
    }

    /// One slot is folded into another.
    pub(crate) fn absorb(&mut self, from: u32, to: u32) {
        let touched = self.touched(from);
        if let Some(of) = self.touched.get_mut(to as usize) {
            *of = (*of).max(touched);
        }
    }

    pub fn is_live(&self, slot: u32) -> bool {
        self.touched(slot) > 0
    }

    pub fn round(&self) -> u32 {
        self.round
    }

    /// An emission is over: what comes from now on has not been given.
    pub fn next_round(&mut self) {
        // four billion emissions, each at least milliseconds after the last
        self.round = self.round.saturating_add(1);
    }
}
