//! A candidate that is too slow costs its task a share of the time, then it is gone; what the active version gives stays the
//! same.

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use millrace_core::batch::Batch;
use millrace_core::checkpoint::{Holds, PluginRef};
use millrace_core::cut::Cut;
use millrace_core::schema::{DataType, Field, Schema};
use millrace_core::window::Slicing;

use super::super::{NodeParts, OpenShared, Versions};
use super::*;
use crate::plugin::native::NativeFactory;
use crate::plugin::{Aggregator, AggregatorFactory as _};

/// It takes what `sums` takes and more is asked of: no row below 0, no result of a group without rows.
mod picky {
    use millrace_plugin::prelude::*;

    #[derive(Input)]
    pub struct Row {
        n: i64,
    }

    #[derive(State, Default)]
    pub struct Mean {
        rows: i64,
        total: i64,
    }

    #[derive(Output)]
    pub struct Given {
        total: i64,
    }

    #[aggregation(name = "sums", version = "2.0.0")]
    impl Aggregation for Mean {
        type Input<'a> = Row;
        type Output = Given;

        fn update(&mut self, row: Row) -> Result<(), Reject> {
            if row.n < 0 {
                return Err(Reject::new("below 0"));
            }
            self.rows += 1;
            self.total += row.n;
            Ok(())
        }

        fn merge(&mut self, other: &Self) {
            self.rows += other.rows;
            self.total += other.total;
        }

        fn evaluate(&self, _: &Window) -> Given {
            assert!(self.rows > 0, "a group without rows");
            Given { total: self.total }
        }
    }
}

/// It knows the groups that it was told of, and refuses others.
mod plugin {
    use millrace_plugin::prelude::*;

    #[derive(Input)]
    pub struct Row {
        n: i64,
    }

    #[derive(State, Default)]
    pub struct Sum {
        total: i64,
    }

    #[derive(Output)]
    pub struct Total {
        total: i64,
    }

    #[aggregation(name = "sums", version = "1.0.0")]
    impl Aggregation for Sum {
        type Input<'a> = Row;
        type Output = Total;

        fn update(&mut self, row: Row) {
            self.total += row.n;
        }

        fn merge(&mut self, other: &Self) {
            self.total += other.total;
        }

        fn evaluate(&self, _: &Window) -> Total {
            Total { total: self.total }
        }
    }
}

fn input() -> Schema {
    Schema::new(vec![Field::new("n", DataType::Long, false)])
}

fn sums() -> Box<dyn Aggregator> {
    NativeFactory::<plugin::Sum>::new("sums").open("", &input()).unwrap()
}

fn columns() -> Vec<InputColumn> {
    vec![InputColumn { index: Some(0), field: input().fields.remove(0) }]
}

fn versions(events: Sender<Event>) -> Versions {
    let task = TaskId { node: "sums".into(), task: 0 };
    let accumulator =
        Accumulator::new("sums".into(), sums(), Arc::new(|| Ok(sums())), usize::MAX, Arc::default(), None, 5);
    Versions::new(task, events, accumulator, columns(), Arc::default())
}

/// Its instance is there once `ready` says so.
fn candidate(ready: Receiver<()>, comparison: Option<Comparison>, drains: bool) -> Arc<Candidate> {
    let open = move || {
        let _ = ready.recv();
        Ok(sums())
    };
    Arc::new(Candidate {
        id: 7,
        plugin: PluginRef {
            name: "sums".into(),
            version: "2".into(),
            sha256: String::new(),
            config: String::new(),
            in_file: None,
        },
        state: sums().signature().state.clone(),
        open: OpenShared::Aggregator(Arc::new(open)),
        recorder: Box::new(|| None),
        input: columns(),
        origin: None,
        drains,
        comparison,
        is_over: Arc::default(),
    })
}

fn attach(versions: &mut Versions, candidate: &Arc<Candidate>) {
    let (node, stats) = ("sums".into(), Arc::default());
    let parts = NodeParts { node: &node, kept_bytes_max: usize::MAX, stats: &stats, consecutive_limit: 5 };
    versions.attach(candidate, &parts, (None, None));
}

fn update(versions: &mut Versions, numbers: &[i64], slots: &[u32]) {
    update_at(versions, 0, numbers, slots);
}

fn update_at(versions: &mut Versions, time_ms: i64, numbers: &[i64], slots: &[u32]) {
    let array: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    let rows = RecordBatch::try_new(input().to_arrow(), vec![array]).unwrap();
    let batch = Batch { rows, event_time_ms: vec![time_ms; numbers.len()].into(), origin: None, changes: None };
    let pending = Arc::new(vec![Pending { batch: Arc::new(batch), rows: None, slots: slots.to_vec() }]);
    assert_eq!(versions.update(&pending, slots, 3, &|_| Place::default()).unwrap().len(), 0);
}

fn results(versions: &mut Versions) -> Vec<i64> {
    let assembly = Assembly { slots: vec![0, 1, 2], ..Assembly::default() };
    let windows = vec![WindowUs { start: 0, end: 1 }; 3];
    let rows = versions.evaluate(&assembly, &[], &windows, true, false).unwrap().unwrap();
    rows.columns[0].as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn a_candidate_that_is_too_slow_is_given_up_and_the_task_goes_on() {
    let (events, said) = unbounded();
    let mut versions = versions(events);
    update(&mut versions, &[1, 20, 300], &[0, 1, 2]);
    versions.export(Holds::State, 0, &[0, 1, 2]).unwrap();
    versions.exported(&[0]);

    let (_ready, never) = bounded(0);
    attach(&mut versions, &candidate(never, None, false));
    update(&mut versions, &[2], &[0]);
    assert!(versions.has_candidate() && said.is_empty());

    // its queue is full, and the task has waited for it for just its share of the time
    let companion = versions.companion.as_mut().unwrap();
    *companion.queue.bytes.lock().unwrap() = COMPANION_QUEUE_BYTES_MAX + 1;
    companion.since = Instant::now().checked_sub(WAIT_MIN * WAIT_SHARE).unwrap();
    companion.waited = WAIT_MIN * 2;
    update(&mut versions, &[40, 5], &[1, 0]);

    assert!(!versions.has_companion());
    let Ok(Event::GaveUp { version: 7, reason, .. }) = said.try_recv() else { panic!("nobody was told") };
    assert!(reason.contains("falls behind"), "{reason}");
    update(&mut versions, &[600], &[2]);
    assert_eq!(results(&mut versions), [1 + 2 + 5, 20 + 40, 300 + 600]);
    assert!(said.is_empty());
}

#[test]
fn a_shadow_measures_what_a_row_takes() {
    let (events, said) = unbounded();
    let mut versions = versions(events);
    let output = versions.signature().output.clone();
    update(&mut versions, &[1, 20, 300], &[0, 1, 2]);
    versions.export(Holds::State, 0, &[0, 1, 2]).unwrap();
    versions.exported(&[0]);
    let (_, at_once) = bounded(0);
    let candidate = candidate(at_once, Some(Comparison::new(Vec::new(), output.clone(), output, 0.0)), false);
    attach(&mut versions, &candidate);
    assert!(matches!(said.recv().unwrap(), Event::CaughtUp { version: 7, .. }));
    let report = || candidate.comparison.as_ref().unwrap().report();
    assert_eq!((report().old_ns_per_row, report().new_ns_per_row), (None, None));
    update(&mut versions, &[2], &[0]);
    // all that it was told is done by then
    versions.exchange(7, None, None).unwrap().unwrap();
    assert!(report().old_ns_per_row.is_some() && report().new_ns_per_row.is_some(), "{:?}", report());
    assert_eq!(results(&mut versions), [3, 20, 300]);
}

#[test]
fn a_candidate_without_state_survives_what_it_is_told_of_groups_that_it_has_never_seen() {
    let (events, said) = unbounded();
    let mut versions = versions(events);
    update(&mut versions, &[1, 20, 300], &[0, 1, 2]);
    versions.export(Holds::State, 0, &[0, 1, 2]).unwrap();
    versions.exported(&[0]);
    let (_, at_once) = bounded(0);
    attach(&mut versions, &candidate(at_once, None, true));
    assert!(matches!(said.recv().unwrap(), Event::CaughtUp { version: 7, .. }));
    // a checkpoint, results and the end of a window, before any row
    versions.export(Holds::State, 0, &[0, 1, 2]).unwrap();
    versions.exported(&[0]);
    let assembly = Assembly { slots: vec![0, 1, 2], ..Assembly::default() };
    let asked = Asked {
        assembly,
        windows: vec![WindowUs { start: 0, end: 1 }; 3],
        is_final: true,
        total: 3,
        of_sinks: false,
        results: None,
    };
    versions.beside(|| (asked, Vec::new()));
    versions.reset(&[2]).unwrap();
    update(&mut versions, &[5], &[2]);
    versions.exchange(7, None, None).unwrap().expect("it runs still");
    assert_eq!(results(&mut versions)[2], 5);
    assert!(said.is_empty());
}

/// The former version has counted them, and its results are those of their windows.
#[test]
fn a_candidate_without_state_has_nothing_to_say_of_windows_that_began_before() {
    let (events, said) = unbounded();
    let mut versions = versions(events);
    update_at(&mut versions, 50, &[1, 20], &[0, 1]);
    versions.export(Holds::State, 0, &[0, 1]).unwrap();
    versions.exported(&[0]);
    let (node, stats) = ("sums".into(), Arc::default());
    let parts = NodeParts { node: &node, kept_bytes_max: usize::MAX, stats: &stats, consecutive_limit: 5 };
    let open = || NativeFactory::<picky::Mean>::new("sums").open("", &input());
    let (_, at_once) = bounded(0);
    let mut picky = Arc::into_inner(candidate(at_once, None, true)).unwrap();
    picky.open = OpenShared::Aggregator(Arc::new(open));
    versions.attach(&Arc::new(picky), &parts, (Some(100), Some(100)));
    assert!(matches!(said.recv().unwrap(), Event::CaughtUp { version: 7, .. }));

    // refused by the one that would have to give their windows, and not by the other one
    update_at(&mut versions, 60, &[-1], &[0]);
    update_at(&mut versions, 150, &[-2, 7], &[2, 2]);
    update_at(&mut versions, 250, &[-3], &[2]);
    let early = |start: i64| {
        let slot = if start == 0 { 1 } else { 2 };
        let assembly = Assembly { slots: vec![slot], ..Assembly::default() };
        let windows = vec![WindowUs { start: start * 1_000, end: (start + 100) * 1_000 }];
        let asked = Asked { assembly, windows, is_final: false, total: 3, of_sinks: true, results: None };
        let window = Window { start_ms: start, end_ms: start + 100 };
        (asked, vec![AskedGroup { key: Vec::new(), window, revision: 1, present: true }])
    };
    versions.beside(|| early(0));
    versions.beside(|| early(100));
    versions.export(Holds::State, 0, &[0, 1]).unwrap();
    versions.export(Holds::State, 100, &[2]).unwrap();
    versions.exported(&[0, 100]);

    // another task had later windows: the cut is behind those of this one
    let cut = Cut::new(Slicing::tumbling(100, 0), 200);
    let taken = versions.exchange(7, None, Some(cut)).unwrap().expect("it runs still");
    let refused: Vec<Option<i64>> = taken.refused.iter().map(|row| row.event_time_ms).collect();
    assert_eq!(refused, [Some(250)]);
    assert!(said.is_empty());
}

#[test]
fn a_panic_of_the_thread_beside_is_heard_of() {
    let (events, said) = unbounded();
    let mut versions = versions(events);
    update(&mut versions, &[1], &[0]);
    versions.export(Holds::State, 0, &[0]).unwrap();
    versions.exported(&[0]);
    let mut panics = Arc::into_inner(candidate(bounded(0).1, None, true)).unwrap();
    panics.open = OpenShared::Aggregator(Arc::new(|| NativeFactory::<picky::Mean>::new("sums").open("", &input())));
    attach(&mut versions, &Arc::new(panics));
    assert!(matches!(said.recv().unwrap(), Event::CaughtUp { version: 7, .. }));
    let assembly = Assembly { slots: vec![0], ..Assembly::default() };
    let windows = vec![WindowUs { start: 0, end: 1 }];
    let asked = Asked { assembly, windows, is_final: false, total: 1, of_sinks: false, results: None };
    versions.beside(|| (asked, Vec::new()));
    let Event::GaveUp { version: 7, reason, .. } = said.recv().unwrap() else { panic!("nobody was told") };
    assert!(reason.contains("panicked"), "{reason}");
}
