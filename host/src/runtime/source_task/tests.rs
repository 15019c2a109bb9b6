//! One source task on a scripted broker: what it makes of event time, told by the messages on its edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};

use crossbeam_channel::unbounded;
use millrace_core::schema::{DataType, Field, Schema};

use super::drift::Drift;
use super::*;
use crate::clock::NeverBack;
use crate::decode::json::JsonDecoder;
use crate::runtime::edge::{Exchange, connect};
use crate::source::{Extent, PartitionId, PartitionReader, RawMessage};
use crate::spec::model::{EventTimeSpec, OnError, SourceSchema, TimeUnit, WhenIdle};

/// No test waits for as long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWERED_EVERY: Duration = Duration::from_millis(20);
/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(600);

const NOON: i64 = 1_769_860_800_000;

#[derive(Debug)]
struct Scripted(AtomicI64);

impl Clock for Scripted {
    fn now_ms(&self) -> i64 {
        self.0.load(SeqCst)
    }
}

#[derive(Default)]
struct Shelf {
    /// event times
    messages: Vec<i64>,
    fetches: usize,
    waker: Option<Arc<Waker>>,
}

/// Partitions that hold what a test puts there.
#[derive(Default)]
struct Broker {
    shelves: Mutex<BTreeMap<i32, Arc<Mutex<Shelf>>>>,
    /// of so many calls, the next ones fail
    refusals: AtomicUsize,
    opened: AtomicUsize,
}

impl Broker {
    fn shelf(&self, partition: i32) -> Arc<Mutex<Shelf>> {
        Arc::clone(self.shelves.lock().unwrap().entry(partition).or_default())
    }

    fn put(&self, partition: i32, times: &[i64]) {
        let shelf = self.shelf(partition);
        let mut shelf = shelf.lock().unwrap();
        shelf.messages.extend(times);
        if let Some(waker) = &shelf.waker {
            waker.wake();
        }
    }

    fn fetches(&self, partition: i32) -> usize {
        self.shelf(partition).lock().unwrap().fetches
    }
}

impl Connector for Broker {
    fn discover(&self) -> Result<Vec<PartitionInfo>, SourceError> {
        Ok(Vec::new())
    }

    fn extent(&self, id: &PartitionId) -> Result<Extent, SourceError> {
        Ok(Extent { begin: 0, end: self.shelf(id.partition).lock().unwrap().messages.len() as i64 })
    }

    fn open(&self, id: &PartitionId, _: StartAt, waker: &Arc<Waker>) -> Result<Box<dyn PartitionReader>, SourceError> {
        self.opened.fetch_add(1, SeqCst);
        if self.refusals.load(SeqCst) > 0 {
            self.refusals.fetch_sub(1, SeqCst);
            return Err(SourceError::Transient("not yet".into()));
        }
        let shelf = self.shelf(id.partition);
        shelf.lock().unwrap().waker = Some(Arc::clone(waker));
        Ok(Box::new(Reader { shelf, held: Vec::new(), position: 0 }))
    }

    fn publish_positions(&self, _: &[(PartitionId, i64)]) {}
}

struct Reader {
    shelf: Arc<Mutex<Shelf>>,
    held: Vec<(i64, Vec<u8>)>,
    position: i64,
}

impl PartitionReader for Reader {
    fn fetch(&mut self, _: usize) -> Result<usize, SourceError> {
        let mut shelf = self.shelf.lock().unwrap();
        shelf.fetches += 1;
        // one at a time: a watermark after each
        let next = shelf.messages.get(self.position as usize).map(|time| (self.position, format!("{{\"at\":{time}}}")));
        self.held = next.map(|(offset, text)| (offset, text.into_bytes())).into_iter().collect();
        self.position += self.held.len() as i64;
        Ok(self.held.len())
    }

    fn messages<'a>(&'a self, into: &mut Vec<RawMessage<'a>>) {
        into.extend(self.held.iter().map(|(offset, text)| RawMessage {
            offset: *offset,
            payload: Some(text),
            key: None,
            timestamp_ms: None,
        }));
    }

    fn position(&self) -> i64 {
        self.position
    }
}

const WATERMARK: WatermarkSpec = WatermarkSpec {
    out_of_orderness_ms: 1_000,
    idle_timeout_ms: None,
    max_drift_ms: None,
    max_future_ms: None,
    when_idle: WhenIdle::Hold,
};

/// A task, what it reads from, and what it says.
struct Running {
    broker: Arc<Broker>,
    said: Receiver<Message>,
    letters: Receiver<Message>,
    commands: Sender<Command>,
    events: Receiver<Event>,
    waker: Arc<Waker>,
    progress: BTreeMap<i32, Arc<PartitionProgress>>,
    /// partitions whose end the monitor goes on hearing of
    answering: std::cell::RefCell<BTreeSet<i32>>,
    clock: Arc<Scripted>,
    started: Instant,
    thread: std::thread::JoinHandle<Result<(), RunError>>,
}

struct Setting {
    watermark: WatermarkSpec,
    partitions: Vec<(i32, PartitionTime)>,
    processing_from: Option<i64>,
    drift: Option<DriftSlot>,
    waker: Arc<Waker>,
    together: Option<Arc<Mutex<Together>>>,
    refusals: usize,
}

/// New partitions of these numbers.
fn reading(watermark: WatermarkSpec, partitions: &[i32]) -> Setting {
    let bound_ms = watermark.out_of_orderness_ms as i64;
    Setting {
        watermark,
        partitions: partitions.iter().map(|p| (*p, PartitionTime::new(bound_ms))).collect(),
        processing_from: None,
        drift: None,
        waker: Arc::default(),
        together: None,
        refusals: 0,
    }
}

fn info(partition: i32) -> PartitionInfo {
    PartitionInfo { id: PartitionId { topic: "t".into(), partition }, topic_id: None }
}

impl Setting {
    fn start(self) -> Running {
        let broker = Arc::new(Broker { refusals: AtomicUsize::new(self.refusals), ..Broker::default() });
        let schema = Schema::new(vec![Field::new("at", DataType::Timestamptz, false)]);
        let source = SourceSchema { schema: schema.clone(), paths: vec![vec!["at".into()]] };
        let event_time = match self.processing_from {
            Some(_) => EventTimeSpec::RecordTimestamp,
            None => EventTimeSpec::Column { name: "at".into(), unit: TimeUnit::Millis },
        };
        let edge = || {
            let (mut outputs, mut inputs) = connect(&Exchange::Forward, None, 1, 1);
            (outputs.remove(0), inputs.remove(0).remove(0))
        };
        let ((output, said), (errors, dead)) = (edge(), edge());
        // watermarks go there, too: a test that looks at none of it must not make the task wait for room
        let (forward, letters) = unbounded();
        std::thread::spawn(move || dead.iter().try_for_each(|message| forward.send(message)));
        let stats = Arc::<NodeStats>::default();
        let (commands, command_receiver) = unbounded();
        let (event_sender, events) = unbounded();
        let clock = Arc::new(Scripted(AtomicI64::new(NOON)));
        let wall = Arc::clone(&clock) as Arc<dyn Clock>;
        let started = Instant::now();
        let task = SourceTask {
            memory: Arc::default(),
            id: TaskId { node: "events".into(), task: 0 },
            connector: Arc::clone(&broker) as Arc<dyn Connector>,
            decoder: Box::new(JsonDecoder::new(&source, &event_time).unwrap()),
            watermark: self.watermark,
            bound_ms: self.watermark.out_of_orderness_ms as i64,
            metadata: MetadataSpec::default(),
            output_schema: schema.to_arrow(),
            outputs: vec![output],
            failures: Failures::new(
                "events".into(),
                "source",
                OnError::DeadLetter,
                100,
                vec![errors],
                Arc::clone(&stats),
            ),
            commands: command_receiver,
            events: event_sender,
            waker: Arc::clone(&self.waker),
            clock: Arc::clone(&wall),
            processing: self.processing_from.map(|from| Arc::new(NeverBack::new(wall, from)) as Arc<dyn Clock>),
            started,
            stats,
            drift: self.drift,
            together: self.together,
            paused: Arc::default(),
            bounded: false,
            waiting: VecDeque::new(),
        };
        let progress: BTreeMap<i32, Arc<PartitionProgress>> =
            self.partitions.iter().map(|(p, _)| (*p, Arc::default())).collect();
        let assigned = self.partitions.into_iter().map(|(partition, time)| Assigned {
            info: info(partition),
            start: StartAt::Earliest,
            time,
            until: None,
            progress: Arc::clone(&progress[&partition]),
        });
        let assigned = assigned.collect();
        let thread = std::thread::spawn(move || task.run(assigned));
        let answering = std::cell::RefCell::default();
        let waker = self.waker;
        Running { broker, said, letters, commands, events, waker, progress, answering, clock, started, thread }
    }
}

impl Running {
    fn put(&self, partition: i32, times: &[i64]) {
        self.broker.put(partition, times);
    }

    /// Waits until the task says a watermark of which this is true. Meanwhile the monitor goes on hearing what it has heard.
    fn until(&self, what: &str, wanted: impl Fn(Watermark) -> bool) -> Watermark {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            match self.said.recv_timeout(ANSWERED_EVERY) {
                Ok(Message::Watermark(watermark)) if wanted(watermark) => return watermark,
                Ok(Message::Watermark(watermark)) => last = Some(watermark),
                Ok(_) => {}
                Err(_) => self.answering.borrow().iter().for_each(|partition| self.heard(*partition)),
            }
        }
        panic!("{what} was not said; the last was {last:?}");
    }

    fn until_at(&self, time_ms: i64) {
        self.until(&format!("watermark {time_ms}"), |w| w == Watermark { time_ms: Some(time_ms), idle: false });
    }

    /// The watermarks of the next while.
    fn for_a_while(&self) -> Vec<Watermark> {
        let deadline = Instant::now() + A_WHILE;
        let mut said = Vec::new();
        while let Ok(message) = self.said.recv_deadline(deadline) {
            if let Message::Watermark(watermark) = message {
                said.push(watermark);
            }
        }
        said
    }

    /// The monitor has heard where a partition ends.
    fn answered(&self, partition: i32, end: i64) {
        let progress = &self.progress[&partition];
        progress.end.store(end, SeqCst);
        self.heard(partition);
        self.answering.borrow_mut().insert(partition);
        self.waker.wake();
    }

    fn heard(&self, partition: i32) {
        self.progress[&partition].end_answered_ms.store(elapsed_ms(self.started), SeqCst);
    }

    fn stop(self) -> Vec<millrace_core::checkpoint::PartitionState> {
        self.commands.send(Command::Barrier(Barrier { checkpoint: 1, then: Then::Stop })).unwrap();
        self.waker.wake();
        let (said, letters) = (self.said, self.letters);
        // nobody may wait for room
        let drain = |edge: Receiver<Message>| std::thread::spawn(move || edge.iter().count());
        let drains = [drain(said), drain(letters)];
        let event = self.events.recv_timeout(PATIENCE).unwrap();
        self.thread.join().unwrap().unwrap();
        for drain in drains {
            drain.join().unwrap();
        }
        match event {
            Event::Acknowledged { part: Part::Source { partitions }, .. } => partitions,
            other => panic!("{other:?}"),
        }
    }
}

fn idle_after(ms: u64) -> WatermarkSpec {
    WatermarkSpec { idle_timeout_ms: Some(ms), ..WATERMARK }
}

#[test]
fn each_partition_is_behind_its_largest_event_and_the_source_at_the_slowest() {
    let run = reading(WATERMARK, &[0, 1]).start();
    run.put(0, &[NOON, NOON + 10_000, NOON + 4_000]);
    assert!(run.for_a_while().iter().all(|w| w.time_ms.is_none()), "the other one has not begun");
    run.put(1, &[NOON + 2_000]);
    run.until_at(NOON + 2_000 - 1_001);
    run.put(1, &[NOON + 20_000]);
    run.until_at(NOON + 10_000 - 1_001);
    let states = run.stop();
    let at = |p: i32| states.iter().find(|s| s.partition == p).unwrap().watermark_ms;
    assert_eq!((at(0), at(1)), (Some(NOON + 8_999), Some(NOON + 18_999)));
}

#[test]
fn an_event_beyond_max_future_moves_nothing_and_is_a_dead_letter() {
    let run = reading(WatermarkSpec { max_future_ms: Some(60_000), ..WATERMARK }, &[0]).start();
    run.put(0, &[NOON, NOON + 60_000]);
    run.until_at(NOON + 60_000 - 1_001);
    run.put(0, &[NOON + 60_001]);
    let letter = loop {
        if let Message::Rows(packet) = run.letters.recv_timeout(PATIENCE).unwrap() {
            break packet.rows.batch;
        }
    };
    assert_eq!((letter.num_rows(), letter.event_time_ms[0]), (1, NOON + 60_001));
    assert_eq!(run.for_a_while(), []);
    let report = run.progress[&0].report();
    assert_eq!((report.future_total, report.failed_total, report.messages_total), (1, 1, 3));
    // when the clock has come there, it is no longer the future
    run.clock.0.store(NOON + 1_000, SeqCst);
    run.put(0, &[NOON + 60_001]);
    run.until_at(NOON + 60_001 - 1_001);
    run.stop();
}

#[test]
fn idle_is_what_has_caught_up_by_a_fresh_answer_and_is_silent() {
    let run = reading(idle_after(300), &[0, 1]).start();
    run.put(0, &[NOON]);
    run.put(1, &[NOON + 60_000]);
    run.until_at(NOON - 1_001);
    // nobody has answered
    assert_eq!(run.for_a_while(), []);
    // there is more, though nothing of it comes
    run.answered(0, 2);
    assert_eq!(run.for_a_while(), []);
    // an answer that has become old
    run.progress[&0].end.store(1, SeqCst);
    assert_eq!(run.for_a_while(), []);
    run.answered(0, 1);
    run.until_at(NOON + 60_000 - 1_001);
    assert!(run.progress[&0].report().idle);
    // there is more to read: it counts again before it has come
    run.answered(0, 2);
    run.until_at(NOON - 1_001);
    assert!(!run.progress[&0].report().idle);
    let states = run.stop();
    assert!(states.iter().all(|s| !s.idle));
}

#[test]
fn all_idle_holds_and_what_was_idle_is_restored_so() {
    let setting = Setting {
        partitions: vec![
            (0, PartitionTime::restored(1_000, Some(NOON), true)),
            (1, PartitionTime::restored(1_000, Some(NOON + 5_000), false)),
        ],
        ..reading(idle_after(200), &[])
    };
    let run = setting.start();
    run.until_at(NOON + 5_000);
    run.answered(1, 0);
    run.until("idleness", |w| w == Watermark { time_ms: None, idle: true });
    run.put(0, &[NOON + 7_000]);
    run.until_at(NOON + 5_999);
    let states = run.stop();
    let idle = |p: i32| states.iter().find(|s| s.partition == p).unwrap().idle;
    assert_eq!((idle(0), idle(1)), (false, true));
}

#[test]
fn when_idle_advance_goes_on_by_the_time_that_passes_and_not_by_the_clock() {
    let watermark = WatermarkSpec { when_idle: WhenIdle::Advance, ..idle_after(200) };
    let setting = Setting { together: Some(Arc::new(Mutex::new(Together::new(1)))), ..reading(watermark, &[0]) };
    let run = setting.start();
    run.put(0, &[NOON]);
    run.until_at(NOON - 1_001);
    // the machine's clock jumps, and nobody looks
    run.clock.0.store(NOON + 86_400_000, SeqCst);
    assert_eq!(run.for_a_while(), [], "not caught up by any answer");
    run.answered(0, 1);
    let began = Instant::now();
    let first = run.until("a watermark that goes on", |w| w.idle && w.time_ms.is_some()).time_ms.unwrap();
    assert!((NOON - 1_001..NOON).contains(&first), "it goes on from where it was: {first}");
    let later = run.until("a second more", |w| w.time_ms >= Some(NOON));
    let passed = elapsed_ms(began);
    assert!((1_001..=passed + 50).contains(&(later.time_ms.unwrap() - (NOON - 1_001))), "{later:?} after {passed} ms");
    // an event wakes it, and does not take it back
    run.put(0, &[NOON - 500]);
    let woken = run.until("that it is awake", |w| !w.idle);
    assert!(woken.time_ms >= later.time_ms);
    let state = run.stop().remove(0);
    assert!(!state.idle && state.watermark_ms >= later.time_ms);
}

#[test]
fn a_new_partition_is_read_from_its_beginning_and_holds_nothing_before_its_first_event() {
    let run = reading(WATERMARK, &[0]).start();
    run.put(0, &[NOON]);
    run.until_at(NOON - 1_001);
    run.commands.send(Command::Add(info(7), Arc::default())).unwrap();
    run.waker.wake();
    run.put(0, &[NOON + 10_000]);
    run.until_at(NOON + 8_999);
    run.put(7, &[NOON + 2_000, NOON + 3_000]);
    run.until_at(NOON + 999);
    run.until_at(NOON + 1_999);
    run.stop();
}

#[test]
fn too_far_ahead_is_not_read_and_goes_on_at_once_when_the_slowest_moves() {
    let watermark = WatermarkSpec { max_drift_ms: Some(60_000), ..WATERMARK };
    let wakers: Vec<Arc<Waker>> = vec![Arc::default(), Arc::default()];
    let drift = Drift::new(wakers.clone());
    let other = drift.slot(1, [0, 1].into());
    let slot = Some(drift.slot(0, [0, 1].into()));
    let run = Setting { drift: slot, waker: Arc::clone(&wakers[0]), ..reading(watermark, &[0]) }.start();
    // nothing is known of the other source yet: the first event is read, and no more
    run.put(0, &[NOON, NOON + 1, NOON + 90_000]);
    run.until_at(NOON - 1_001);
    assert_eq!(run.for_a_while(), []);
    other.publish(NOON - 61_000);
    run.until_at(NOON - 1_000);
    // exactly a minute ahead is not too far
    run.until_at(NOON + 90_000 - 1_001);
    other.publish(NOON - 61_001);
    run.put(0, &[NOON + 2]);
    run.for_a_while();
    let fetched = run.broker.fetches(0);
    run.for_a_while();
    assert_eq!(run.broker.fetches(0), fetched, "its queue was asked");
    let waits = run.progress[&0].report().drift.unwrap();
    assert_eq!(waits.slowest_ms, Some(NOON - 61_001));
    // many times, so that no tick of the task can be taken for the wake
    let position = |step: i64| NOON + 90_000 + step * 100_000;
    run.put(0, &(1..=20).map(position).collect::<Vec<_>>());
    run.for_a_while();
    let began = Instant::now();
    for step in 1..=20 {
        other.publish(position(step - 1));
        run.until_at(position(step) - 1_001);
    }
    assert!(began.elapsed() < WAIT_MAX * 5, "20 wakes took {:?}", began.elapsed());
    run.stop();
}

#[test]
fn in_processing_time_events_happen_when_they_are_read_and_the_watermark_follows_the_clock() {
    let watermark = WatermarkSpec { max_future_ms: Some(1_000), ..idle_after(200) };
    let time = PartitionTime::restored(0, Some(NOON + 3_999), false);
    let setting =
        Setting { processing_from: Some(NOON + 4_000), partitions: vec![(0, time)], ..reading(watermark, &[]) };
    let run = setting.start();
    // the clock is behind where the last run had come to
    run.until_at(NOON + 3_999);
    run.answered(0, 0);
    assert_eq!(run.for_a_while(), [], "neither back nor idle");
    run.clock.0.store(NOON + 10_000, SeqCst);
    run.until_at(NOON + 9_999);
    // neither what an event says of its time counts, nor that it says nothing
    run.put(0, &[1, NOON * 2]);
    let mut times = Vec::new();
    while times.len() < 2 {
        if let Message::Rows(packet) = run.said.recv_timeout(PATIENCE).unwrap() {
            times.extend_from_slice(&packet.rows.batch.event_time_ms);
        }
    }
    assert_eq!(times, [NOON + 10_000; 2]);
    // the clock is set back
    run.clock.0.store(NOON, SeqCst);
    assert_eq!(run.for_a_while(), []);
    run.clock.0.store(NOON + 10_500, SeqCst);
    run.until_at(NOON + 10_499);
    let state = run.stop().remove(0);
    assert_eq!((state.watermark_ms, state.idle), (Some(NOON + 10_499), false));
}

#[test]
fn a_task_that_cannot_open_a_partition_hears_that_the_run_stops() {
    let run = Setting { refusals: 100, ..reading(WATERMARK, &[0]) }.start();
    let deadline = Instant::now() + PATIENCE;
    while run.broker.opened.load(SeqCst) < 4 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    // it waits for 800 ms now
    let began = Instant::now();
    run.commands.send(Command::Barrier(Barrier { checkpoint: 1, then: Then::Stop })).unwrap();
    run.waker.wake();
    let error = run.thread.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("stopped before source `events`"), "{error}");
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(run.broker.opened.load(SeqCst), 4);
}
