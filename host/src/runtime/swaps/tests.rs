//! What becomes of a swap whose versions fail at awkward moments: whatever the tasks answer, it comes to an end.

use std::sync::atomic::AtomicBool;

use millrace_core::checkpoint::PluginRef;
use millrace_core::schema::Schema;
use millrace_core::swap::History;

use super::*;
use crate::plugin::PluginError;
use crate::runtime::versions::OpenShared;
use crate::spec::secrets::Secrets;

const NEW: VersionId = 1;
const FORMER: VersionId = 0;

fn task(number: usize) -> TaskId {
    TaskId { node: Arc::from("metrics"), task: number }
}

/// Two tasks, and a swap in its probation.
fn in_probation() -> Swaps {
    probation(false)
}

/// So is one that gets no state; windows begin at 60 in one task of which it sees all, at 90 in the other.
fn draining() -> Swaps {
    probation(true)
}

fn probation(drains: bool) -> Swaps {
    let desks = BTreeMap::from([("metrics".to_owned(), Arc::<Desk>::default())]);
    let history = SharedHistory::new(Secrets::new("p", &["salt-9f3c".to_owned()]));
    history.lock().push(SwapRecord { id: NEW, operator: "metrics".to_owned(), ..SwapRecord::default() });
    let tasks = BTreeSet::from([task(0), task(1)]);
    let mut swaps = Swaps::new(desks, &tasks, history, Duration::from_secs(3_600), BTreeSet::new());
    let closed = |what: &str| PluginError::Contract {
        plugin: "none".to_owned(),
        call: "open",
        message: format!("{what} is not opened here"),
    };
    let candidate = Candidate {
        id: NEW,
        plugin: PluginRef {
            name: "none".to_owned(),
            version: "2.0.0".to_owned(),
            sha256: "00".repeat(32),
            config: String::new(),
            in_file: None,
        },
        state: Schema::default(),
        open: OpenShared::Aggregator(Arc::new(move || Err(closed("a plugin")))),
        recorder: Box::new(|| None),
        input: Vec::new(),
        origin: None,
        drains,
        comparison: None,
        is_over: Arc::<AtomicBool>::default(),
    };
    swaps.request(SwapOrder { candidate: Arc::new(candidate), operator: "metrics".to_owned(), shadow: None });
    assert!(swaps.wants_barrier(0));
    let operators = BTreeMap::from([("metrics".to_owned(), former())]);
    swaps.at_barrier(1, &operators);
    let last = |ms: i64| Answer { next_window_ms: drains.then_some(ms), ..answer(FORMER) };
    assert!(matches!(swaps.judge(1, &[last(90), last(60)], 0).unwrap(), Verdict::Stands { .. }));
    (0..2).for_each(|number| swaps.caught_up(&task(number), NEW, 0));
    assert!(swaps.wants_barrier(0));
    let changed = settle_draining(&mut swaps, 2, NEW, [drains, drains]);
    assert_eq!(phase(&swaps), Phase::Probation);
    let state = changed.into_iter().next().unwrap().state.unwrap();
    assert_eq!(state.draining.map(|d| (d.before_ms, d.plugin.version)), drains.then(|| (90, "1.0.0".to_owned())));
    assert!(!swaps.wants_barrier(0));
    swaps
}

fn former() -> OperatorState {
    let plugin = PluginRef {
        name: "none".to_owned(),
        version: "1.0.0".to_owned(),
        sha256: "11".repeat(32),
        config: String::new(),
        in_file: None,
    };
    OperatorState { plugin: Some(plugin), ..OperatorState::default() }
}

/// A barrier after which the former version still ends windows in some tasks; what has changed.
fn settle_draining(swaps: &mut Swaps, number: u64, version: VersionId, is_draining: [bool; 2]) -> Vec<Changed> {
    swaps.at_barrier(number, &BTreeMap::new());
    let answers = is_draining.map(|is_draining| Answer { is_draining, ..answer(version) });
    match swaps.judge(number, &answers, 0).unwrap() {
        Verdict::Stands { changed, records } => {
            records.into_iter().for_each(|record| swaps.show(record));
            changed
        }
        Verdict::Again => panic!("the tasks agree"),
    }
}

fn answer(version: VersionId) -> Answer {
    Answer { operator: "metrics".to_owned(), version, ..Answer::default() }
}

fn barrier(swaps: &mut Swaps, number: u64, versions: [VersionId; 2]) -> Verdict {
    swaps.at_barrier(number, &BTreeMap::new());
    swaps.judge(number, &versions.map(answer), 0).unwrap()
}

/// A barrier whose checkpoint stands, and is durable.
fn settle(swaps: &mut Swaps, number: u64, versions: [VersionId; 2]) {
    match barrier(swaps, number, versions) {
        Verdict::Stands { records, .. } => records.into_iter().for_each(|record| swaps.show(record)),
        Verdict::Again => panic!("the tasks agree"),
    }
}

fn phase(swaps: &Swaps) -> Phase {
    swaps.history.lock().get(NEW).unwrap().phase
}

fn reason(swaps: &Swaps) -> String {
    swaps.history.lock().get(NEW).unwrap().reason.clone().unwrap()
}

#[test]
fn a_rollback_that_was_asked_for_takes_all_tasks_back() {
    let mut swaps = in_probation();
    swaps.roll_back("metrics", "asked for".to_owned());
    assert!(swaps.wants_barrier(0));
    settle(&mut swaps, 3, [FORMER, FORMER]);
    assert_eq!((phase(&swaps), reason(&swaps)), (Phase::RolledBack, "asked for".to_owned()));
    assert!(swaps.wind_down());
}

#[test]
fn a_former_version_that_is_lost_in_one_task_takes_none_back() {
    // before it is asked for, and while the order waits for its barrier
    for is_asked_before in [false, true] {
        let mut swaps = in_probation();
        if is_asked_before {
            swaps.roll_back("metrics", "asked for".to_owned());
        }
        swaps.gave_up(&task(1), FORMER, "out of memory");
        swaps.roll_back("metrics", "asked for".to_owned());
        assert!(swaps.wants_barrier(0));
        settle(&mut swaps, 3, [NEW, NEW]);
        assert_eq!(phase(&swaps), Phase::Done);
        assert!(reason(&swaps).contains("the former version failed beside it: out of memory"), "{}", reason(&swaps));
        assert!(swaps.wind_down());
    }
}

#[test]
fn a_former_version_that_is_lost_at_the_barrier_itself_ends_the_swap() {
    let mut swaps = in_probation();
    swaps.roll_back("metrics", "asked for".to_owned());
    settle(&mut swaps, 3, [NEW, NEW]);
    assert_eq!(phase(&swaps), Phase::Done);
    assert!(reason(&swaps).contains("no way back (asked for)"), "{}", reason(&swaps));
    assert!(swaps.wind_down(), "the run can end");
}

#[test]
fn a_task_that_falls_back_takes_the_others_with_it() {
    let mut swaps = in_probation();
    // the barrier was on its way before the coordinator heard of it
    assert!(matches!(barrier(&mut swaps, 3, [FORMER, NEW]), Verdict::Again));
    swaps.fell_back(&task(0), NEW, "a trap".to_owned());
    settle(&mut swaps, 3, [FORMER, FORMER]);
    assert_eq!((phase(&swaps), reason(&swaps)), (Phase::RolledBack, "a trap".to_owned()));
}

#[test]
fn tasks_that_never_agree_end_the_run() {
    let mut swaps = in_probation();
    swaps.fell_back(&task(0), NEW, "a trap".to_owned());
    swaps.gave_up(&task(1), FORMER, "out of memory");
    for _ in 0..DISAGREEMENTS_MAX {
        assert!(matches!(barrier(&mut swaps, 3, [FORMER, NEW]), Verdict::Again));
    }
    swaps.at_barrier(3, &BTreeMap::new());
    let error = swaps.judge(3, &[FORMER, NEW].map(answer), 0).err().unwrap().to_string();
    assert!(error.contains("a trap; the former version failed, too: out of memory"), "{error}");
    assert!(error.contains("nothing is lost"), "{error}");
}

#[test]
fn a_swap_that_drains_is_over_when_every_task_has_ended_its_windows() {
    let mut swaps = draining();
    swaps.wind_down();
    assert!(settle_draining(&mut swaps, 3, NEW, [true, true]).is_empty());
    assert_eq!(phase(&swaps), Phase::Draining, "its probation is over, its windows are not");
    assert!(settle_draining(&mut swaps, 4, NEW, [false, true]).is_empty());
    assert_eq!(phase(&swaps), Phase::Draining);
    let changed = settle_draining(&mut swaps, 5, NEW, [false, false]);
    assert!(matches!(&changed[..], [Changed { state: None, .. }]), "checkpoints do not name it any more");
    assert_eq!(phase(&swaps), Phase::Done);
    assert!(settle_draining(&mut swaps, 6, NEW, [false, false]).is_empty(), "once");
}

#[test]
fn windows_that_end_in_probation_leave_the_way_back_open() {
    let mut swaps = draining();
    assert_eq!(settle_draining(&mut swaps, 3, NEW, [false, false]).len(), 1);
    assert_eq!(phase(&swaps), Phase::Probation);
    swaps.roll_back("metrics", "asked for".to_owned());
    assert!(swaps.wants_barrier(0));
    settle(&mut swaps, 4, [FORMER, FORMER]);
    assert_eq!(phase(&swaps), Phase::RolledBack);
}

#[test]
fn a_rollback_gives_the_former_version_all_windows_back() {
    let mut swaps = draining();
    swaps.roll_back("metrics", "asked for".to_owned());
    assert!(swaps.wants_barrier(0));
    let changed = settle_draining(&mut swaps, 3, FORMER, [false, false]);
    assert!(matches!(&changed[..], [Changed { state: Some(state), .. }] if state.draining.is_none()));
    assert_eq!(phase(&swaps), Phase::RolledBack);
    assert!(settle_draining(&mut swaps, 4, FORMER, [false, false]).is_empty());
}

#[test]
fn a_restart_goes_on_with_windows_that_a_former_version_ends() {
    let draining = Draining { plugin: former().plugin.unwrap(), state: Schema::default(), before_ms: 91 };
    let operators = |is_draining: bool| {
        let draining = is_draining.then(|| draining.clone());
        BTreeMap::from([("metrics".to_owned(), OperatorState { draining, ..former() })])
    };
    let phase_after = |phase: Phase, is_draining: bool| {
        let mut history = History::default();
        history.push(SwapRecord { id: NEW, operator: "metrics".to_owned(), phase, ..SwapRecord::default() });
        restored(history, &operators(is_draining)).get(NEW).unwrap().phase
    };
    assert_eq!(phase_after(Phase::Draining, true), Phase::Draining);
    assert_eq!(phase_after(Phase::Draining, false), Phase::Done);
    assert_eq!(phase_after(Phase::Probation, true), Phase::Draining);
    assert_eq!(phase_after(Phase::Probation, false), Phase::Done);
    assert_eq!(phase_after(Phase::Warming, true), Phase::Failed);
}

fn only_record(verdict: Verdict) -> SwapRecord {
    match verdict {
        Verdict::Stands { mut records, .. } if records.len() == 1 => records.remove(0),
        _ => panic!("one record"),
    }
}

/// What a version says as it fails is in the checkpoint of its rollback.
#[test]
fn reasons_of_versions_that_fail_hold_no_secret() {
    let mut swaps = in_probation();
    swaps.gave_up(&task(1), FORMER, "its salt is salt-9f3c");
    swaps.fell_back(&task(0), NEW, "my salt is salt-9f3c".to_owned());
    let record = only_record(barrier(&mut swaps, 3, [FORMER, FORMER]));
    let said = record.reason.unwrap();
    assert!(said.contains("its salt is [redacted]") && !said.contains("9f3c"), "{said}");
    let mut swaps = in_probation();
    swaps.fell_back(&task(0), NEW, "my salt is salt-9f3c".to_owned());
    let record = only_record(barrier(&mut swaps, 3, [FORMER, FORMER]));
    assert_eq!(record.reason.as_deref(), Some("my salt is [redacted]"));
}
