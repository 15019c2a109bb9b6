//! One process: every touch of the world goes through [`Process::step`], which counts it, and at the scripted one
//! kills the process, stops it, or lets it stand still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::random::Random;
use super::script::{Life, Place, Twist};
use super::swapper::Swapper;
use super::world::{World, lock};
use crate::runtime::coordinator::Order;
use crate::sink::SinkError;
use crate::source::{SourceError, Waker};

/// An unbounded process that nothing has befallen by its so many-th checkpoint is stopped.
const CHECKPOINTS_MAX: u64 = 40;

/// In every error that the simulation makes, so that it is told from those that the pipeline makes of itself.
pub const INJECTED: &str = "injected";

#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{INJECTED}: the process is dead")]
    Dead,
    #[error("{INJECTED}: connection reset")]
    Transient,
}

/// How a process that stands still and the one that overtakes it find each other.
pub struct Hang {
    pub hanging: Sender<()>,
    /// a message, or the sender's end
    pub release: Receiver<()>,
}

/// Lets the process that stands still go on at a hit of a place, or when this one has ended.
pub struct Release {
    pub place: Place,
    pub hit: u64,
    pub sender: Sender<()>,
}

pub struct Process {
    pub world: Arc<World>,
    pub life: Life,
    alive: Mutex<bool>,
    hits: Mutex<BTreeMap<Place, u64>>,
    random: Mutex<Random>,
    orders: Sender<Order>,
    wakers: Mutex<Vec<Weak<Waker>>>,
    hang: Option<Hang>,
    releases: Mutex<Option<Release>>,
    /// where its state goes that does not fit into memory
    pub disk: tempfile::TempDir,
    swapper: Mutex<Option<Swapper>>,
}

impl Process {
    pub fn new(
        world: &Arc<World>,
        life: Life,
        orders: Sender<Order>,
        hang: Option<Hang>,
        releases: Option<Release>,
    ) -> Self {
        Self {
            random: Mutex::new(Random::new(world.script.seed, 10_000 + life.number as u64)),
            world: Arc::clone(world),
            life,
            alive: Mutex::new(true),
            hits: Mutex::default(),
            orders,
            wakers: Mutex::default(),
            hang,
            releases: Mutex::new(releases),
            disk: tempfile::tempdir().expect("a folder for temporary files"),
            swapper: Mutex::default(),
        }
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut lock(&self.random))
    }

    pub fn swaps_with(&self, swapper: Swapper) {
        if self.life.swaps_percent > 0 {
            *lock(&self.swapper) = Some(swapper);
        }
    }

    fn swap_now_and_then(&self) {
        let Some(swapper) = &*lock(&self.swapper) else { return };
        let order = self.draw(|random| random.percent(self.life.swaps_percent).then(|| swapper(random)).flatten());
        if let Some(order) = order {
            // a run that is over listens no more
            let _ = self.orders.send(order);
        }
    }

    pub fn wakes(&self, waker: &Arc<Waker>) {
        lock(&self.wakers).push(Arc::downgrade(waker));
    }

    /// A step that is tried again by whoever takes it: it may fail, before or after it was applied.
    pub fn risky_step<T>(&self, place: Place, apply: impl FnOnce() -> T) -> Result<T, Trouble> {
        let faults = self.life.faults_percent;
        let (fails, after) = self.draw(|random| (random.percent(faults), random.percent(50)));
        match (fails, after) {
            (false, _) => self.step(place, apply),
            (true, false) => self.step(place, || ()).and(Err(Trouble::Transient)),
            (true, true) => self.step(place, apply).and(Err(Trouble::Transient)),
        }
    }

    /// Changes the world by `apply`, unless the process is dead or dies just before.
    pub fn step<T>(&self, place: Place, apply: impl FnOnce() -> T) -> Result<T, Trouble> {
        if matches!(place, Place::Fetch | Place::Write | Place::LogPut) {
            self.swap_now_and_then();
        }
        let twist = self.hit(place);
        match twist {
            Some(Twist::Stop) => self.stop(),
            Some(Twist::Hang) => self.stand_still(),
            Some(Twist::DieBefore | Twist::DieAfter) | None => {}
        }
        // Held while the world is changed: after the instant of death nothing is.
        let mut alive = lock(&self.alive);
        if !*alive {
            return Err(Trouble::Dead);
        }
        if twist == Some(Twist::DieBefore) {
            *alive = false;
        } else {
            let applied = apply();
            if twist != Some(Twist::DieAfter) {
                return Ok(applied);
            }
            *alive = false;
        }
        drop(alive);
        // who sleeps finds out now
        lock(&self.wakers).iter().filter_map(Weak::upgrade).for_each(|waker| waker.wake());
        Err(Trouble::Dead)
    }

    fn hit(&self, place: Place) -> Option<Twist> {
        let hits = {
            let mut hits = lock(&self.hits);
            let count = hits.entry(place).or_default();
            *count += 1;
            *count
        };
        if let Some(release) = lock(&self.releases).as_ref().filter(|r| r.place == place && r.hit == hits) {
            let _ = release.sender.send(());
        }
        if place == Place::LogPut && hits == CHECKPOINTS_MAX && !self.life.until_end {
            self.stop();
        }
        let turn = self.life.turn.filter(|t| t.place == place && t.hit == hits)?;
        lock(&self.world.struck).push(turn);
        Some(turn.twist)
    }

    fn stop(&self) {
        // a run that is over listens no more
        let _ = self.orders.send(Order::Stop { drain: false });
    }

    fn stand_still(&self) {
        if let Some(hang) = &self.hang {
            let _ = hang.hanging.send(());
            let _ = hang.release.recv();
        }
    }

    fn slow(&self) -> Option<Duration> {
        let percent = self.life.slow_percent;
        self.draw(|random| random.percent(percent).then(|| Duration::from_micros(random.next() % 4_000)))
    }

    /// Others get their turn, as they do while a disk or a network takes its time.
    pub fn dawdle(&self) {
        if let Some(pause) = self.slow() {
            std::thread::sleep(pause);
        }
    }

    pub async fn dawdle_async(&self) {
        if let Some(pause) = self.slow() {
            tokio::time::sleep(pause).await;
        }
    }
}

impl From<Trouble> for SinkError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Dead => Self::Fatal(trouble.to_string()),
            Trouble::Transient => Self::Transient(trouble.to_string()),
        }
    }
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Dead => Self::Fatal(trouble.to_string()),
            Trouble::Transient => Self::Transient(trouble.to_string()),
        }
    }
}

impl From<Trouble> for object_store::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            // a kind that is not tried again
            Trouble::Dead => Self::NotSupported { source: trouble.into() },
            Trouble::Transient => Self::Generic { store: "simulation", source: trouble.into() },
        }
    }
}
