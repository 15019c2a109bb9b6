//! Versions of a plugin in two tasks, and the coordinator's own state machine over them. Version `k` makes `k * n` of `n`, so
//! that each row says who has made it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array};
use crossbeam_channel::{Receiver, unbounded};
use millrace_core::checkpoint::OperatorState;
use millrace_core::schema::{DataType, Field, Schema};
use millrace_core::swap::{Phase, SwapRecord};

use super::super::plugin::OpenTransformer;
use super::*;
use crate::capture::Place;
use crate::plugin::{PluginError, TransformSignature, Transformed, Transformer, Wanted};
use crate::runtime::swaps::{Answer, SharedHistory, SwapOrder, Swaps, Verdict};
use crate::runtime::versions::OpenShared;

const NODE: &str = "clean";
const TASKS: usize = 2;
const POISON: i64 = 13;
const PATIENCE: Duration = Duration::from_secs(30);
/// The version that runs at first; swaps bring the next ones.
const FIRST: i64 = 1;

/// What a version does besides.
#[derive(Clone)]
enum Vice {
    None,
    DiesOfPoison,
    /// its rows have another name
    OtherColumns,
    /// each call waits for this
    Waits(Receiver<()>),
}

struct Times {
    k: i64,
    vice: Vice,
    signature: TransformSignature,
}

fn long(name: &str) -> Field {
    Field::new(name, DataType::Long, false)
}

fn made(k: i64, vice: Vice) -> Box<dyn Transformer> {
    let input = vec![Wanted { field: long("n"), dictionary: false, optional: false }];
    let name = if matches!(vice, Vice::OtherColumns) { "m" } else { "n" };
    let signature = TransformSignature { input, output: Schema::new(vec![long(name)]) };
    Box::new(Times { k, vice, signature })
}

impl Transformer for Times {
    fn signature(&self) -> &TransformSignature {
        &self.signature
    }

    fn process(&mut self, columns: &[Option<ArrayRef>], rows: u32) -> Result<Transformed, PluginError> {
        let numbers = columns[0].as_ref().unwrap().as_primitive::<Int64Type>().values();
        match &self.vice {
            Vice::DiesOfPoison if numbers.contains(&POISON) => {
                let (plugin, guest_log) = ("times".to_owned(), Vec::new());
                let message = "poison".to_owned();
                return Err(PluginError::Trap { plugin, call: "process", message, guest_log, out_of_memory: false });
            }
            Vice::Waits(until) => until.recv_timeout(PATIENCE).unwrap(),
            _ => {}
        }
        let column: ArrayRef = Arc::new(numbers.iter().map(|n| n * self.k).collect::<Int64Array>());
        Ok(Transformed { columns: vec![column], origins: (0..rows).collect(), rejected: Vec::new() })
    }
}

/// The tasks of a transform, and what the coordinator does at a barrier.
struct Run {
    tasks: Vec<TransformVersions>,
    node: PluginNode,
    events: Receiver<Event>,
    swaps: Swaps,
    operators: BTreeMap<String, OperatorState>,
    next_number: u64,
}

fn plugin(k: i64) -> PluginRef {
    let version = k.to_string();
    PluginRef { name: "times".into(), sha256: format!("{k}"), version, config: "{}".into(), in_file: None }
}

impl Run {
    fn new(probation: Duration) -> Self {
        let (sender, events) = unbounded();
        let desk = Arc::<Desk>::default();
        let node = PluginNode {
            name: NODE.into(),
            columns: BTreeMap::new(),
            input: Schema::new(vec![long("n")]),
            stats: Arc::default(),
            consecutive_limit: 5,
        };
        let id = |task| TaskId { node: NODE.into(), task };
        let task = |task| {
            let open: OpenTransformer = Box::new(|| Ok(made(FIRST, Vice::DiesOfPoison)));
            let active = TransformPlugin::new(&node, open, None).unwrap();
            TransformVersions::new(id(task), sender.clone(), Arc::clone(&desk), node.clone(), Arc::default(), active)
        };
        let tasks = (0..TASKS).map(task).collect();
        let desks = BTreeMap::from([(NODE.to_owned(), desk)]);
        let ids: BTreeSet<TaskId> = (0..TASKS).map(id).collect();
        let swaps = Swaps::new(desks, &ids, SharedHistory::default(), probation, BTreeSet::new());
        let first = OperatorState { plugin: Some(plugin(FIRST)), ..OperatorState::default() };
        let operators = BTreeMap::from([(NODE.to_owned(), first)]);
        Self { tasks, node, events, swaps, operators, next_number: 1 }
    }

    /// Asks for version `k`, whose swap has the id `k - 1`.
    fn request(&mut self, k: i64, vice: Vice) {
        let id = self.swaps.history.lock().next_id();
        assert_eq!(i64::try_from(id), Ok(k - FIRST));
        self.swaps.history.lock().push(SwapRecord { id, operator: NODE.into(), ..SwapRecord::default() });
        let candidate = Candidate {
            id,
            plugin: plugin(k),
            state: Schema::default(),
            open: OpenShared::Transformer(Arc::new(move || Ok(made(k, vice.clone())))),
            recorder: Box::new(|| None),
            input: Vec::new(),
            origin: None,
            drains: false,
            comparison: None,
            is_over: Arc::default(),
        };
        self.swaps.request(SwapOrder { candidate: Arc::new(candidate), operator: NODE.into(), shadow: None });
    }

    /// One that is wanted.
    fn barrier(&mut self) {
        assert!(self.swaps.wants_barrier(0));
        loop {
            self.swaps.at_barrier(self.next_number, &self.operators);
            let answers = self.tasks.iter_mut().map(|task| {
                let (version, exchanged) = task.obey(self.next_number);
                Answer { operator: NODE.to_owned(), version, exchanged, ..Answer::default() }
            });
            let answers: Vec<Answer> = answers.collect();
            self.hear_all();
            match self.swaps.judge(self.next_number, &answers, 0).unwrap() {
                Verdict::Again => continue,
                Verdict::Stands { changed, records } => {
                    self.operators.extend(changed.into_iter().filter_map(|c| Some((c.operator, c.state?))));
                    records.into_iter().for_each(|record| self.swaps.show(record));
                }
            }
            self.next_number += 1;
            return;
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::CaughtUp { task, version } => self.swaps.caught_up(&task, version, 0),
            Event::GaveUp { task, version, reason } => self.swaps.gave_up(&task, version, &reason),
            Event::FellBack { task, version, reason } => self.swaps.fell_back(&task, version, reason),
            other => panic!("{other:?}"),
        }
    }

    /// What the tasks have said so far.
    fn hear_all(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.tell(event);
        }
    }

    /// … and say until then.
    fn hear_until(&mut self, is_there: impl Fn(&Swaps) -> bool) {
        while !is_there(&self.swaps) {
            let event = self.events.recv_timeout(PATIENCE).expect("a task says something");
            self.tell(event);
        }
    }

    /// What a task makes of these numbers: who has made which rows, and the rows that failed.
    fn rows(&mut self, task: usize, numbers: &[i64]) -> (Vec<i64>, Vec<u32>) {
        let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let batch = RecordBatch::try_new(self.node.input.to_arrow(), vec![column]).unwrap();
        let (rows, _, failed) = self.tasks[task].apply(&batch, &|_| Place::default()).unwrap();
        let made = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        (made, failed.into_iter().map(|(row, _)| row).collect())
    }

    fn record(&self) -> SwapRecord {
        self.swaps.history.lock().iter().next_back().unwrap().clone()
    }

    fn phase(&self) -> Phase {
        self.record().phase
    }

    fn runs(&self) -> String {
        self.operators[NODE].plugin.as_ref().unwrap().version.clone()
    }

    /// Both versions run in all tasks, and the new one has taken over.
    fn exchange(&mut self, k: i64, vice: Vice) {
        self.request(k, vice);
        self.barrier();
        self.hear_until(|swaps| swaps.history.lock().iter().next_back().unwrap().phase == Phase::Exchanging);
        self.barrier();
        assert_eq!((self.phase(), self.runs()), (Phase::Probation, k.to_string()));
        self.assert_beside(1);
    }

    /// In every task so many versions are there besides the active one.
    fn assert_beside(&mut self, others: usize) {
        for task in &mut self.tasks {
            task.let_go();
            let there = usize::from(task.former.is_some()) + usize::from(task.trial.is_some());
            assert_eq!(there, others);
        }
    }
}

#[test]
fn a_version_is_tried_takes_over_and_is_taken_back() {
    let mut run = Run::new(PATIENCE);
    run.request(2, Vice::None);
    assert_eq!(run.rows(0, &[1, 2]).0, [1, 2]);
    run.barrier();
    // some of them are shown to the new one; all are made by the running one
    assert_eq!((run.rows(0, &[1, 2]).0, run.rows(1, &[3]).0), (vec![1, 2], vec![3]));
    run.hear_until(|swaps| swaps.history.lock().iter().next_back().unwrap().phase == Phase::Exchanging);
    assert_eq!(run.rows(0, &[4]).0, [4]);
    run.barrier();
    assert_eq!((run.phase(), run.runs().as_str()), (Phase::Probation, "2"));
    assert_eq!((run.rows(0, &[1, 2]).0, run.rows(1, &[3]).0), (vec![2, 4], vec![6]));
    run.swaps.roll_back(NODE, "asked for".to_owned());
    assert_eq!(run.rows(1, &[5]).0, [10]);
    run.barrier();
    assert_eq!((run.phase(), run.runs().as_str()), (Phase::RolledBack, "1"));
    let rollback = run.record().rollback.unwrap();
    assert_eq!((rollback.given_again, rollback.left_as_given), (0, 4));
    assert_eq!((run.rows(0, &[1]).0, run.rows(1, &[3]).0), (vec![1], vec![3]));
    run.assert_beside(0);
}

#[test]
fn one_that_dies_on_trial_disturbs_nothing() {
    let mut run = Run::new(PATIENCE);
    run.request(2, Vice::DiesOfPoison);
    run.barrier();
    // the running one does, too, and that is a row's fault
    assert_eq!(run.rows(0, &[1, POISON, 3]), (vec![1, 3], vec![1]));
    run.hear_until(|swaps| swaps.history.lock().iter().next_back().unwrap().phase.is_over());
    assert_eq!((run.phase(), run.runs().as_str()), (Phase::Failed, "1"));
    assert!(run.record().reason.unwrap().contains("poison"));
    assert!(!run.swaps.wants_barrier(0));
    assert_eq!(run.rows(1, &[3]).0, [3]);
    run.assert_beside(0);
}

#[test]
fn one_with_other_columns_is_not_taken() {
    let mut run = Run::new(PATIENCE);
    run.request(2, Vice::OtherColumns);
    run.barrier();
    run.hear_until(|swaps| swaps.history.lock().iter().next_back().unwrap().phase.is_over());
    assert!(run.record().reason.unwrap().contains("other columns"));
}

#[test]
fn one_that_dies_in_its_probation_leaves_each_row_processed_once() {
    let mut run = Run::new(PATIENCE);
    // the former one survives
    run.exchange(2, Vice::None);
    run.swaps.wind_down();
    run.barrier();
    assert_eq!(run.phase(), Phase::Done);
    run.exchange(3, Vice::DiesOfPoison);
    assert_eq!((run.rows(0, &[1]).0, run.rows(1, &[1]).0), (vec![3], vec![3]));
    assert_eq!(run.rows(0, &[1, POISON, 2]), (vec![2, 2 * POISON, 4], vec![]));
    // the others follow at the barrier
    assert_eq!((run.rows(0, &[1]).0, run.rows(1, &[1]).0), (vec![2], vec![3]));
    run.hear_all();
    run.barrier();
    assert_eq!((run.phase(), run.runs().as_str()), (Phase::RolledBack, "2"));
    let record = run.record();
    assert!(record.reason.unwrap().contains("poison"));
    assert_eq!(record.rollback.unwrap().left_as_given, 3);
    assert_eq!((run.rows(0, &[POISON]).0, run.rows(1, &[1]).0), (vec![2 * POISON], vec![2]));
    assert_eq!(run.node.stats.plugin_failures_total.load(Relaxed), 0);
    run.assert_beside(0);
}

#[test]
fn after_its_probation_a_row_is_to_blame() {
    let mut run = Run::new(Duration::ZERO);
    run.exchange(2, Vice::DiesOfPoison);
    run.barrier();
    assert_eq!(run.phase(), Phase::Done);
    run.assert_beside(0);
    assert_eq!(run.rows(0, &[1, POISON, 3]), (vec![2, 6], vec![1]));
    assert_eq!(run.node.stats.plugin_failures_total.load(Relaxed), 1);
}

#[test]
fn the_running_version_waits_for_none_on_trial() {
    let mut run = Run::new(PATIENCE);
    let (go_on, until) = unbounded();
    run.request(2, Vice::Waits(until));
    run.barrier();
    for n in 20..120 {
        assert_eq!(run.rows(0, &[n]).0, [n]);
    }
    // what has found no room is not kept
    assert!(run.events.is_empty());
    for _ in 0..100 {
        go_on.send(()).unwrap();
    }
    run.hear_until(|swaps| swaps.history.lock().iter().next_back().unwrap().phase == Phase::Exchanging);
    assert!(go_on.len() >= 97, "{} batches were tried", 100 - go_on.len());
}
