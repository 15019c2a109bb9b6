//! What becomes of a swap whose versions fail at awkward moments: whatever the tasks answer, it comes to an end.

use std::sync::atomic::AtomicBool;

use millrace_core::checkpoint::PluginRef;
use millrace_core::schema::Schema;

use super::*;
use crate::plugin::PluginError;

const NEW: VersionId = 1;
const FORMER: VersionId = 0;

fn task(number: usize) -> TaskId {
    TaskId { node: Arc::from("metrics"), task: number }
}

/// Two tasks, and a swap in its probation.
fn in_probation() -> Swaps {
    let desks = BTreeMap::from([("metrics".to_owned(), Arc::<Desk>::default())]);
    let history = SharedHistory::new(Secrets::new("p", &["salt-9f3c".to_owned()]));
    history.lock().push(SwapRecord { id: NEW, operator: "metrics".to_owned(), ..SwapRecord::default() });
    let tasks = BTreeSet::from([task(0), task(1)]);
    let mut swaps = Swaps::new(desks, &tasks, history, Duration::from_secs(3_600));
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
        open: Arc::new(move || Err(closed("a plugin"))),
        recorder: Box::new(|| None),
        input: Vec::new(),
        origin: None,
        comparison: None,
        is_over: Arc::<AtomicBool>::default(),
    };
    swaps.request(SwapOrder { candidate: Arc::new(candidate), operator: "metrics".to_owned(), shadow: None });
    assert!(swaps.wants_barrier(0));
    assert!(matches!(barrier(&mut swaps, 1, [FORMER, FORMER]), Verdict::Stands { .. }));
    (0..2).for_each(|number| swaps.caught_up(&task(number), NEW, 0));
    assert!(swaps.wants_barrier(0));
    settle(&mut swaps, 2, [NEW, NEW]);
    assert_eq!(phase(&swaps), Phase::Probation);
    assert!(!swaps.wants_barrier(0));
    swaps
}

fn barrier(swaps: &mut Swaps, number: u64, versions: [VersionId; 2]) -> Verdict {
    swaps.at_barrier(number, &BTreeMap::new());
    let answers = versions.map(|version| ("metrics".to_owned(), version, None));
    swaps.judge(number, answers.to_vec(), 0).unwrap()
}

/// A barrier whose checkpoint stands, and is durable.
fn settle(swaps: &mut Swaps, number: u64, versions: [VersionId; 2]) {
    match barrier(swaps, number, versions) {
        Verdict::Stands { record, .. } => record.into_iter().for_each(|record| swaps.show(*record)),
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
    let answers = [FORMER, NEW].map(|version| ("metrics".to_owned(), version, None));
    let error = swaps.judge(3, answers.to_vec(), 0).err().unwrap().to_string();
    assert!(error.contains("a trap; the former version failed, too: out of memory"), "{error}");
    assert!(error.contains("nothing is lost"), "{error}");
}

/// What a version says as it fails is in the checkpoint of its rollback.
#[test]
fn reasons_of_versions_that_fail_hold_no_secret() {
    let mut swaps = in_probation();
    swaps.gave_up(&task(1), FORMER, "its salt is salt-9f3c");
    swaps.fell_back(&task(0), NEW, "my salt is salt-9f3c".to_owned());
    let Verdict::Stands { record: Some(record), .. } = barrier(&mut swaps, 3, [FORMER, FORMER]) else {
        panic!("the tasks agree")
    };
    let said = record.reason.unwrap();
    assert!(said.contains("its salt is [redacted]") && !said.contains("9f3c"), "{said}");
    let mut swaps = in_probation();
    swaps.fell_back(&task(0), NEW, "my salt is salt-9f3c".to_owned());
    let Verdict::Stands { record: Some(record), .. } = barrier(&mut swaps, 3, [FORMER, FORMER]) else {
        panic!("the tasks agree")
    };
    assert_eq!(record.reason.as_deref(), Some("my salt is [redacted]"));
}
