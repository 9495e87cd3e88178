use super::*;

const HEARTBEAT: Duration = Duration::from_millis(100);

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn names(count: usize) -> BTreeSet<String> {
    (1..=count).map(|number| format!("node{number}")).collect()
}

/// A fence of node1 among `count` nodes, all of which are up but those that are left out later.
fn fence(now: Instant, count: usize) -> Fence {
    let mut fence = Fence::new(now, true, HEARTBEAT);
    fence.expected = Some(names(count));
    fence
}

fn others(count: usize) -> BTreeSet<String> {
    let mut others = names(count);
    others.remove("node1");
    others
}

#[test]
fn a_majority_lets_it_go_on_from_the_moment_of_the_question() {
    for (count, voters, held) in [
        (1, 0, true),
        (2, 0, false),
        (2, 1, true),
        (3, 1, true),
        (4, 1, false),
        (4, 2, true),
        (5, 1, false),
        (5, 2, true),
    ] {
        let now = origin();
        let mut fence = fence(now, count);
        let token = fence.ask(now).unwrap();
        for voter in others(count).iter().take(voters) {
            fence.voted(voter, token);
        }
        let actions = fence.judge(now + ms(30), "node1", &others(count));
        let since = if count == 1 { now + ms(30) } else { now };
        let hold = actions.contains(&Action::Hold(since + ms(500)));
        assert_eq!(hold, held, "{voters} votes of others among {count}: {actions:?}");
    }
}

#[test]
fn an_answer_that_comes_late_counts_from_its_question_and_one_too_late_for_nothing() {
    let now = origin();
    let mut fence = fence(now, 3);
    let first = fence.ask(now).unwrap();
    for round in 1..=4 {
        assert!(fence.ask(now + ms(round * 100)).is_some());
    }
    fence.voted("node2", first);
    assert_eq!(fence.judge(now + ms(450), "node1", &others(3)), [Action::Hold(now + ms(500))]);
    assert!(fence.ask(now + ms(500)).is_some());
    fence.voted("node3", first);
    assert_eq!(fence.judge(now + ms(500), "node1", &others(3)), []);
}

#[test]
fn a_member_that_is_down_has_no_vote_and_one_that_is_not_listed_counts() {
    let now = origin();
    let mut fence = fence(now, 3);
    let token = fence.ask(now).unwrap();
    fence.voted("node2", token);
    assert_eq!(fence.judge(now, "node1", &["node3".to_owned()].into()), []);
    // Its pod is being replaced: it is still one of three.
    fence.expected = Some(["node1".to_owned(), "node2".to_owned()].into());
    let actions = fence.judge(now, "node1", &others(3));
    assert_eq!(actions, [], "no votes of the two others yet, and no pair: {actions:?}");
}

#[test]
fn one_of_two_asks_for_the_witness_in_time_and_lives_by_its_word() {
    let now = origin();
    let mut fence = fence(now, 2);
    let token = fence.ask(now).unwrap();
    assert_eq!(fence.judge(now, "node1", &others(2)), [Action::Witness(true)]);
    fence.voted("node2", token);
    let heard = fence.judge(now + ms(1), "node1", &others(2));
    assert_eq!(heard, [Action::Hold(now + ms(500)), Action::Witness(false)]);
    assert_eq!(fence.judge(now + ms(249), "node1", &others(2)), []);
    assert_eq!(fence.judge(now + ms(250), "node1", &others(2)), [Action::Witness(true)]);
    fence.witnessed = Some(now + ms(9000));
    assert_eq!(fence.judge(now + ms(300), "node1", &BTreeSet::new()), [Action::Hold(now + ms(9000))]);
    // A third node makes the witness no voice any more.
    fence.expected = Some(names(3));
    fence.witnessed = Some(now + ms(20_000));
    let end = fence.judge(now + ms(400), "node1", &BTreeSet::new());
    assert_eq!(end, [Action::Hold(now + ms(400)), Action::Witness(false)]);
}

#[test]
fn others_wait_longer_than_it_goes_on_at_every_size() {
    for count in [1, 3, 50, 100, 1000] {
        let fence = fence(origin(), count);
        assert!(fence.take_over_wait() >= fence.bound() + HEARTBEAT * 2, "{count}");
    }
    assert_eq!(Fence::new(origin(), false, HEARTBEAT).take_over_wait(), Duration::ZERO);
}
