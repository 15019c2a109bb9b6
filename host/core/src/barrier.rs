//! Aligned checkpoints: which input may be read on.
//!
//! ```text
//!   input 0  ── rows ── rows ──│n│·· not read ··
//!   input 1  ── rows ─────────────────── rows ──│n│      when the last barrier n is in, the operator
//!                                                 ▲      takes its part of the checkpoint, sends n on,
//!                                                 │      and reads all inputs again
//! ```
//!
//! (Chandy–Lamport as in Carbone et al., "Lightweight Asynchronous Snapshots for Distributed Dataflows", 2015; Flink:
//! `CheckpointBarrierHandler`, aligned.)

/// A mark in the stream. All rows before it belong to the checkpoint, none after it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// the checkpoint's number in the log
    pub checkpoint: u64,
    /// what happens after it
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Continue,
    /// the task ends
    Stop,
}

/// Collects the barriers of one task's inputs.
#[derive(Clone, Debug)]
pub struct Aligner {
    arrived: Vec<bool>,
    waiting_for: Option<Barrier>,
}

/// A barrier that does not fit what is being aligned: the run's own error, never the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("barrier {got} arrived on input {input} while {expected:?} is being aligned")]
pub struct Misaligned {
    pub input: usize,
    pub got: u64,
    pub expected: Option<u64>,
}

impl Aligner {
    pub fn new(inputs: usize) -> Self {
        Self { arrived: vec![false; inputs], waiting_for: None }
    }

    /// Whether this input must not be read for now.
    #[inline]
    pub fn is_blocked(&self, input: usize) -> bool {
        self.arrived.get(input).copied().unwrap_or(false)
    }

    /// Takes a barrier in; returns it once it has arrived on every input.
    pub fn arrive(&mut self, input: usize, barrier: Barrier) -> Result<Option<Barrier>, Misaligned> {
        let misaligned = |expected| Misaligned { input, got: barrier.checkpoint, expected };
        match self.waiting_for {
            Some(expected) if expected != barrier => return Err(misaligned(Some(expected.checkpoint))),
            _ => self.waiting_for = Some(barrier),
        }
        match self.arrived.get_mut(input) {
            Some(arrived) if !*arrived => *arrived = true,
            _ => return Err(misaligned(Some(barrier.checkpoint))),
        }
        if self.arrived.iter().all(|a| *a) {
            self.arrived.fill(false);
            self.waiting_for = None;
            Ok(Some(barrier))
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barrier(checkpoint: u64) -> Barrier {
        Barrier { checkpoint, then: Then::Continue }
    }

    #[test]
    fn blocks_an_input_until_all_have_arrived() {
        let mut a = Aligner::new(3);
        assert_eq!(a.arrive(1, barrier(7)), Ok(None));
        assert!(a.is_blocked(1) && !a.is_blocked(0) && !a.is_blocked(2));
        assert_eq!(a.arrive(0, barrier(7)), Ok(None));
        assert_eq!(a.arrive(2, barrier(7)), Ok(Some(barrier(7))));
        assert!((0..3).all(|i| !a.is_blocked(i)));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let mut a = Aligner::new(2);
        a.arrive(0, barrier(7)).unwrap();
        assert!(a.arrive(1, barrier(8)).is_err());
        assert!(a.arrive(0, barrier(7)).is_err());
    }
}
