//! Addresses that this node announces while another node of the cluster goes on announcing them: one of the two goes by
//! something that is out of date.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::MacAddress;
use super::budget::Budget;
use super::conflict::Action;

/// How long a claim is kept up before it counts: of two nodes that know the same, one gives way within a second or two.
const LASTING: Duration = Duration::from_secs(3);
/// The same for the node with the lower link-layer address: where none of the two knows better, the other one gives way,
/// and is seen to have done so before this time is over.
const LASTING_LOWER: Duration = Duration::from_secs(9);
/// How often the other node is asked whether it still answers.
const ASK: Duration = Duration::from_secs(1);
/// The same while it does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Questions in a row without an answer after which it has given way.
const UNANSWERED: u32 = 3;

/// The addresses in dispute.
#[derive(Clone, Debug)]
pub struct Disputes {
    entries: BTreeMap<IpAddr, Dispute>,
    /// Half of what may be sent unasked: checks need the other half.
    pace: Budget,
    /// When the pace lets the next question go.
    paced: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Dispute {
    by: MacAddress,
    since: Instant,
    /// When the claim was heard last.
    heard: Instant,
    /// How long it has to be kept up.
    patience: Duration,
    /// When the other node is asked next.
    ask: Instant,
    /// Questions since it was heard.
    unanswered: u32,
}

impl Disputes {
    /// None, with `rate` frames a second for these and all other questions.
    pub fn new(rate: u32) -> Self {
        Self { entries: BTreeMap::new(), pace: Budget::half(rate), paced: None }
    }

    /// The node with link-layer address `by` says that it has an address that this one, with `own`, announces. Tells
    /// whether that is news.
    pub fn claim(&mut self, now: Instant, address: IpAddr, by: MacAddress, own: MacAddress) -> bool {
        let is_new = !self.entries.contains_key(&address);
        let patience = if own < by { LASTING_LOWER } else { LASTING };
        let since = self.entries.get(&address).map_or(now, |known| known.since);
        self.entries
            .insert(address, Dispute { by, since, heard: now, patience, ask: now + ASK, unanswered: 0 });
        is_new
    }

    /// Forgets those that are settled: the address is not announced here any more, or the other node is gone.
    pub fn retain(&mut self, lasts: impl Fn(&IpAddr, MacAddress) -> bool) {
        self.entries.retain(|address, dispute| lasts(address, dispute.by));
    }

    /// Asks for what is in dispute, as far as the budget allows; where nobody answers any more it is settled.
    pub(super) fn poll(&mut self, now: Instant, budget: &mut Budget) -> Vec<Action> {
        self.settle(now);
        let due = self.entries.iter_mut().filter(|(_, dispute)| dispute.ask <= now);
        let mut due: Vec<(&IpAddr, &mut Dispute)> = due.collect();
        // What is nearly settled comes first, since more may be settled with it, and then who has waited longest.
        due.sort_by_key(|(_, dispute)| (Reverse(dispute.unanswered), dispute.ask));
        let mut actions = vec![];
        for (address, dispute) in due {
            if self.pace.next(now, 1) > now || !budget.take(now, 1) {
                break;
            }
            self.pace.spend(now, 1);
            dispute.unanswered += 1;
            dispute.ask = now + ASK_AGAIN;
            actions.push(Action::Contest(*address));
        }
        self.paced = Some(budget.next(now, 1).max(self.pace.next(now, 1))).filter(|next| *next > now);
        actions
    }

    /// Forgets those for which the other node does not answer any more, and with each what it claimed no later: after a
    /// split a node gives way in all that it announced, which may be thousands.
    fn settle(&mut self, now: Instant) {
        let is_silent = |dispute: &Dispute| dispute.ask <= now && dispute.unanswered >= UNANSWERED;
        let silent = self.entries.values().filter(|dispute| is_silent(dispute));
        let mut settled: BTreeMap<MacAddress, Instant> = BTreeMap::new();
        for dispute in silent {
            let until = settled.entry(dispute.by).or_insert(dispute.heard);
            *until = (*until).max(dispute.heard);
        }
        let is_over =
            |dispute: &Dispute| settled.get(&dispute.by).is_some_and(|heard| dispute.heard <= *heard + ASK);
        self.entries.retain(|_, dispute| !is_over(dispute));
    }

    /// When [`Disputes::poll`] is wanted next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.entries.values().map(|dispute| dispute.ask).min()?;
        Some(self.paced.map_or(first, |paced| paced.max(first)))
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the other node has kept up its claim of an address for so long that it means it.
    pub fn is_lasting(&self, address: IpAddr) -> bool {
        self.entries.get(&address).is_some_and(|dispute| dispute.since + dispute.patience <= dispute.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOWER: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const HIGHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// When each question goes from `start` on, in milliseconds, until it is settled, or for 20 s.
    fn asked(
        disputes: &mut Disputes,
        start: Instant,
        mut answer: impl FnMut(&mut Disputes, Instant),
    ) -> Vec<u128> {
        let (mut budget, mut asked) = (Budget::new(10), vec![]);
        while let Some(now) = disputes.deadline().filter(|now| *now - start < Duration::from_secs(20)) {
            for action in disputes.poll(now, &mut budget) {
                assert_eq!(action, Action::Contest(address(1)));
                asked.push((now - start).as_millis());
                answer(disputes, now);
            }
        }
        asked
    }

    #[test]
    fn a_claim_that_is_kept_up_lasts_and_one_that_ends_is_settled() {
        let start = origin();
        for (own, by, lasting) in [(HIGHER, LOWER, 3000), (LOWER, HIGHER, 9000)] {
            let mut disputes = Disputes::new(10);
            assert_eq!(disputes.deadline(), None);
            assert!(disputes.claim(start, address(1), by, own), "that is news");
            let mut lasts = vec![];
            let answered = asked(&mut disputes, start, |disputes, now| {
                assert!(!disputes.claim(now, address(1), by, own));
                lasts.extend(disputes.is_lasting(address(1)).then(|| (now - start).as_millis()));
            });
            assert_eq!(answered, (1..20).map(|second| second * 1000).collect::<Vec<_>>());
            assert_eq!(lasts.first(), Some(&lasting));
            assert!(!disputes.is_lasting(address(2)));
            let now = start + Duration::from_secs(20);
            assert_eq!(
                asked(&mut disputes, now, |_, _| ()),
                [0, 300, 600],
                "three questions nobody answered"
            );
            assert!(disputes.is_empty());
        }
    }

    #[test]
    fn a_single_claim_never_lasts() {
        let (start, mut disputes) = (origin(), Disputes::new(10));
        disputes.claim(start, address(1), LOWER, HIGHER);
        let unanswered = asked(&mut disputes, start, |disputes, _| assert!(!disputes.is_lasting(address(1))));
        assert_eq!(unanswered, [1000, 1300, 1600]);
        assert!(disputes.is_empty());
    }

    #[test]
    fn a_dispute_ends_with_the_address_or_with_the_other_node() {
        let (start, mut disputes) = (origin(), Disputes::new(10));
        for (last, seconds) in [(1, 0), (2, 0), (1, 3), (2, 3)] {
            disputes.claim(start + Duration::from_secs(seconds), address(last), LOWER, HIGHER);
        }
        disputes.retain(|its, by| *its == address(1) && by == LOWER);
        assert!(disputes.is_lasting(address(1)));
        assert!(!disputes.is_lasting(address(2)));
        // Another node took it over from the one that claimed it first.
        disputes.claim(start + Duration::from_secs(4), address(1), MacAddress([2, 0, 0, 0, 0, 0]), HIGHER);
        disputes.retain(|_, by| by != LOWER);
        assert!(disputes.is_lasting(address(1)));
        disputes.retain(|_, _| false);
        assert!(disputes.is_empty());
    }

    #[test]
    fn a_node_that_gave_way_in_one_did_so_in_all() {
        let (start, mut disputes, mut budget) = (origin(), Disputes::new(10), Budget::new(10));
        let other = MacAddress([2, 0, 0, 0, 0, 3]);
        for last in 0..200 {
            disputes.claim(start, address(last), if last == 7 { other } else { LOWER }, HIGHER);
        }
        let (mut asked, mut now) = (0, start);
        while disputes.entries.len() > 1 {
            now = disputes.deadline().expect("some are open").max(now);
            asked += disputes.poll(now, &mut budget).len();
            disputes.claim(now, address(7), other, HIGHER);
        }
        assert!(now - start <= Duration::from_secs(10) && asked <= 40, "{asked} in {:?}", now - start);
        assert!(disputes.entries.contains_key(&address(7)), "that of another node");
    }

    #[test]
    fn many_are_asked_for_in_turn_and_with_half_of_what_may_be_sent() {
        let (start, mut disputes, mut budget) = (origin(), Disputes::new(10), Budget::new(10));
        for last in 0..30 {
            disputes.claim(start, address(last), LOWER, HIGHER);
        }
        let (mut asked, mut now) = (vec![], start);
        for _ in 0..100 {
            now = disputes.deadline().expect("some are open").max(now);
            for action in disputes.poll(now, &mut budget) {
                let Action::Contest(address) = action else { panic!("{action:?}") };
                disputes.claim(now, address, LOWER, HIGHER);
                asked.push(address);
            }
        }
        let rate = asked.len() as f64 / (now - start).as_secs_f64();
        assert!((4.0..=6.0).contains(&rate), "{rate} a second");
        assert!((0..30).all(|last| asked.contains(&address(last))), "each has its turn");
    }
}
