use super::*;

const TIMING: Timing = Timing::FAST;

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

/// Runs a silent watch and tells each step with its time in milliseconds; the host answers until `host_until`.
fn run(restarts: bool, host_until: Duration) -> Vec<(u128, Step)> {
    let origin = origin();
    let mut watch = Watch::new(origin);
    let mut steps = vec![];
    loop {
        let now = watch.deadline(&TIMING);
        assert!(now < origin + Duration::from_secs(60), "no verdict: {steps:?}");
        for step in watch.poll(now, &TIMING, restarts) {
            steps.push(((now - origin).as_millis(), step));
            match step {
                Step::Gone => return steps,
                Step::Probe if now < origin + host_until => watch.host_heard(now + Duration::from_millis(1)),
                Step::Probe | Step::Ask => {}
            }
        }
    }
}

#[test]
fn a_dead_node_is_probed_three_times_and_gone_within_450_ms() {
    use Step::{Ask, Gone, Probe};
    let want = [(330, Probe), (330, Ask), (363, Probe), (396, Probe), (430, Gone)];
    assert_eq!(run(false, Duration::ZERO), want);
}

#[test]
fn a_dead_speaker_on_a_living_node_is_gone_after_the_hold() {
    let steps = run(false, Duration::from_secs(60));
    assert_eq!(steps.last(), Some(&(2000, Step::Gone)));
    let steps = run(true, Duration::from_secs(60));
    assert_eq!(steps.last(), Some(&(5000, Step::Gone)));
}

#[test]
fn a_node_that_dies_while_its_speaker_restarts_is_gone_soon() {
    let (at, step) = *run(true, Duration::from_millis(1500)).last().unwrap();
    assert_eq!(step, Step::Gone);
    assert!((1500..2200).contains(&at), "gone after {at} ms");
}

#[test]
fn a_speaker_that_answers_for_its_addresses_stays_as_long_as_with_metallb() {
    let origin = origin();
    let mut watch = Watch::new(origin);
    loop {
        let now = watch.deadline(&TIMING);
        match watch.poll(now, &TIMING, false).last() {
            Some(Step::Gone) => {
                assert_eq!(now - origin, TIMING.answering_hold);
                return;
            }
            Some(Step::Probe | Step::Ask) => watch.answered(now + Duration::from_millis(1)),
            None => panic!("nothing to do at its own deadline"),
        }
    }
}

#[test]
fn any_sign_of_life_begins_anew() {
    let origin = origin();
    let at = |ms| origin + Duration::from_millis(ms);
    let mut watch = Watch::new(origin);
    assert_eq!(watch.poll(at(329), &TIMING, false), vec![]);
    assert_eq!(watch.poll(at(330), &TIMING, false), vec![Step::Probe, Step::Ask]);
    watch.heard(at(340));
    assert_eq!(watch, Watch::new(at(340)));
    assert_eq!(watch.deadline(&TIMING), at(670));
}

#[test]
fn time_lost_by_the_watcher_is_no_silence_of_the_watched() {
    let origin = origin();
    let at = |ms| origin + Duration::from_millis(ms);
    let mut watch = Watch::new(origin);
    watch.forgive(Duration::from_millis(3000), at(3330));
    assert_eq!(watch.deadline(&TIMING), at(3330));
    watch.forgive(Duration::from_millis(3000), at(3340));
    assert_eq!(watch.deadline(&TIMING), at(3340 + 330), "never heard in the future");
}

#[test]
fn a_witness_says_since_when_the_member_is_silent_and_its_word_starts_no_new_patience() {
    let origin = origin();
    let at = |ms| origin + Duration::from_millis(ms);
    let mut watch = Watch::new(origin);
    assert_eq!(watch.poll(at(330), &TIMING, false), [Step::Probe, Step::Ask]);
    watch.vouched(at(31), at(331), &TIMING);
    assert_eq!(watch.deadline(&TIMING), at(361), "330 ms after it was heard by anybody");
    assert_eq!(watch.poll(at(361), &TIMING, false), [Step::Probe, Step::Ask]);
    // One that comes late, or from who heard less, changes nothing.
    watch.vouched(at(20), at(362), &TIMING);
    assert_eq!(watch.deadline(&TIMING), at(394));
}

#[test]
fn a_host_that_nobody_can_ask_stays_in_while_its_speaker_said_that_it_restarts() {
    let origin = origin();
    // Until when nobody can ask; then somebody does, in vain.
    let gone = |restarts, unseen_until: Duration| {
        let mut watch = Watch::new(origin);
        loop {
            let now = watch.deadline(&TIMING);
            if watch.poll(now, &TIMING, restarts).contains(&Step::Gone) {
                return (now - origin).as_millis();
            }
            watch.host_out_of_reach(now, &TIMING);
            if now >= origin + unseen_until {
                watch.host_silent(now);
            }
        }
    };
    assert_eq!(gone(true, Duration::from_secs(60)), 5000, "as long as a restart may take");
    assert_eq!(gone(false, Duration::from_secs(60)), 430, "it said nothing");
    assert_eq!(gone(true, Duration::ZERO), 430, "somebody else asked the host");
    assert!((1500..2000).contains(&gone(true, Duration::from_millis(1500))));
}
