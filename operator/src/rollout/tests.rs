use super::*;
use crate::health::{Cause, Progress, Trouble};

const PATIENCE: Duration = Duration::from_secs(600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn time(second: i64, left: u64) -> Time {
    Time { now: at(second), patience: PATIENCE, left: Duration::from_secs(left) }
}

fn target() -> Target {
    Target { controller: "c2".to_owned(), speaker: "s2".to_owned() }
}

fn healthy(revision: &str) -> Workload {
    let health = Health { wanted: 3, ready: 3, ..Health::default() };
    Workload { revision: Some(revision.to_owned()), health }
}

fn rolling(revision: &str, lags: bool) -> Workload {
    let progress = Progress { last: Some(at(0)), lags };
    let health = Health { wanted: 3, ready: 2, rolling_out: true, progress, ..Health::default() };
    Workload { revision: Some(revision.to_owned()), health }
}

fn judged(controller: &Workload, speaker: &Workload, second: i64) -> Rollout {
    judge(Some(controller), Some(speaker), &target(), time(second, 0))
}

#[test]
fn the_controller_goes_first_and_the_speakers_wait_until_it_is_healthy() {
    let waiting = |deadline: Option<Timestamp>| Rollout {
        step: Some(Step::Controller),
        speakers_wait: true,
        deadline,
        ..Rollout::default()
    };
    assert_eq!(judged(&healthy("c1"), &healthy("s1"), 9), waiting(None), "not applied yet");
    assert_eq!(judged(&rolling("c2", true), &healthy("s1"), 9), waiting(Some(at(600))));
    let speakers = Rollout { step: Some(Step::Speakers), ..Rollout::default() };
    assert_eq!(judged(&healthy("c2"), &healthy("s1"), 9), speakers);
    let moving = Rollout { deadline: Some(at(600)), ..speakers };
    assert_eq!(judged(&healthy("c2"), &rolling("s2", true), 9), moving);
    assert_eq!(judged(&healthy("c2"), &healthy("s2"), 9), Rollout::default());
}

#[test]
fn a_controller_that_is_ready_for_a_moment_lets_no_speaker_go() {
    let mut flapping = healthy("c2");
    flapping.health.settling = true;
    assert_eq!(judged(&flapping, &healthy("s1"), 9).step, Some(Step::Controller));
    assert!(!judged(&flapping, &healthy("s1"), 9).admits(Kind::DaemonSet));
    assert!(judged(&healthy("c2"), &healthy("s1"), 9).admits(Kind::DaemonSet));
}

#[test]
fn what_is_missing_is_made_and_what_was_changed_by_hand_is_repaired_whatever_the_controller_does() {
    let rollout = judge(Some(&rolling("c2", true)), None, &target(), time(9, 0));
    assert!(rollout.admits(Kind::DaemonSet) && rollout.admits(Kind::Deployment));
    assert!(judged(&rolling("c2", true), &healthy("s2"), 9).admits(Kind::DaemonSet));
    assert!(!judged(&rolling("c2", true), &healthy("s1"), 9).admits(Kind::DaemonSet));
    assert_eq!(judge(None, None, &target(), time(9, 0)), Rollout::default());
}

#[test]
fn a_clock_that_jumps_calls_no_rollout_stalled_and_holds_none_up_for_ever() {
    let judged = |second, left| {
        let (done, stuck) = (healthy("c2"), rolling("s2", true));
        judge(Some(&done), Some(&stuck), &target(), time(second, left))
    };
    let forward = judged(1_000_000, 590);
    assert_eq!((forward.stalled, forward.deadline), (None, Some(at(1_000_590))), "it was seen for 10 s only");
    let back = judged(-1_000_000, 0);
    assert_eq!((back.stalled, back.deadline), (None, Some(at(-1_000_000 + 600))));
    assert!(judged(1_000_000, 0).stalled.is_some());
}

#[test]
fn no_progress_until_the_deadline_is_a_stall_that_names_its_cause() {
    let mut stuck = rolling("s2", true);
    assert_eq!(judged(&healthy("c2"), &stuck, 599).stalled, None);
    assert_eq!(judged(&healthy("c2"), &stuck, 600).stalled, Some("2 of 3 pods are ready".to_owned()));
    let trouble =
        |pod: &str| Trouble { cause: Cause::ImagePull, message: format!("pod {pod}: ErrImagePull") };
    stuck.health.troubles = vec![trouble("a"), trouble("b")];
    let stalled = judged(&healthy("c2"), &stuck, 600);
    assert_eq!(stalled.stalled, Some("pod a: ErrImagePull; pod b: ErrImagePull".to_owned()));
    assert_eq!(stalled.deadline, None);
    let excused = judged(&healthy("c2"), &rolling("s2", false), 10_000);
    assert_eq!(
        (excused.step, excused.stalled, excused.deadline),
        (Some(Step::Speakers), None, None),
        "it waits for nodes, not for pods"
    );
}

fn failed() -> Failed {
    Failed { digest: "new".to_owned(), generation: 3, version: "2".to_owned(), cause: "no image".to_owned() }
}

#[test]
fn a_version_is_held_for_what_it_lacks_for_approval_and_after_it_failed() {
    let manual = |approved: &str| Upgrade { waits_for: Some(approved.to_owned()), ..Upgrade::default() };
    let missing = ["no CustomResourceDefinition bgppeers".to_owned()];
    let candidate =
        |missing| Candidate { version: "2", digest: "new", generation: 3, missing, installed: None };
    let known = |version| Known { version, digest: "old", failed: None };
    let failed = failed();
    let after_failure = Known { failed: Some(&failed), ..known("1") };
    let current = Known { digest: "new", ..known("2") };
    let table = [
        ("nothing in the way", Upgrade::default(), candidate(&[]), Some(known("1")), None),
        (
            "lacks something",
            Upgrade::default(),
            candidate(&missing),
            Some(known("1")),
            Some(Kept::Preflight(missing.to_vec())),
        ),
        ("what runs needs no leave", manual(""), candidate(&missing), Some(current), None),
        ("not approved", manual(""), candidate(&[]), Some(known("1")), Some(Kept::Approval)),
        ("another approved", manual("3"), candidate(&[]), Some(known("1")), Some(Kept::Approval)),
        ("approved", manual("2"), candidate(&[]), Some(known("1")), None),
        ("a change of the spec alone", manual(""), candidate(&[]), Some(known("2")), None),
        ("nothing known", manual(""), candidate(&[]), None, Some(Kept::Approval)),
        (
            "installed, and not known to work yet",
            manual(""),
            Candidate { installed: Some("2"), ..candidate(&[]) },
            None,
            None,
        ),
        (
            "failed before",
            Upgrade::default(),
            candidate(&[]),
            Some(after_failure.clone()),
            Some(Kept::Failed(failed.clone())),
        ),
        (
            "the spec changed since",
            Upgrade::default(),
            Candidate { generation: 4, ..candidate(&[]) },
            Some(after_failure.clone()),
            None,
        ),
        (
            "the operator changed since",
            Upgrade::default(),
            Candidate { digest: "newer", ..candidate(&[]) },
            Some(after_failure),
            None,
        ),
    ];
    for (name, policy, candidate, known, want) in table {
        assert_eq!(hold(&policy, candidate, known.as_ref()), want, "{name}");
    }
}

#[test]
fn a_stall_is_rolled_back_only_where_that_is_wanted_and_possible() {
    let rollback = Upgrade { on_failure: OnFailure::Rollback, ..Upgrade::default() };
    let known = Known { version: "1", digest: "old", failed: None };
    let absent = ["node2 lacks speaker:1".to_owned()];
    assert_eq!(stalled(&Upgrade::default(), Some(&known), &[]), Verdict::Pause(None));
    assert_eq!(stalled(&rollback, Some(&known), &[]), Verdict::Rollback);
    assert_eq!(
        stalled(&rollback, None, &[]),
        Verdict::Pause(Some("no version is known that worked".to_owned()))
    );
    assert_eq!(
        stalled(&rollback, Some(&known), &absent),
        Verdict::Pause(Some("node2 lacks speaker:1".to_owned()))
    );
}
