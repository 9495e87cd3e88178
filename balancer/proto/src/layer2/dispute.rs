//! Addresses that this node announces while another node of the cluster goes on announcing them: one of the two goes by
//! something that is out of date.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::MacAddress;
use super::budget::Budget;
use super::conflict::Action;

/// How long a claim is kept up before it counts: of two nodes that know the same, one gives way within a second or two.
pub const LASTING: Duration = Duration::from_secs(3);
/// How often the other node is asked whether it still answers.
const ASK: Duration = Duration::from_secs(1);
/// Questions in a row without an answer after which it has given way.
const UNANSWERED: u32 = 3;

/// The addresses in dispute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disputes {
    entries: BTreeMap<IpAddr, Dispute>,
    /// When the pace lets the next question go.
    paced: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dispute {
    by: MacAddress,
    since: Instant,
    /// When the other node is asked next.
    ask: Instant,
    /// Questions since it was heard.
    unanswered: u32,
}

impl Disputes {
    /// The node with this link-layer address says that it has an address that is announced here.
    pub fn claim(&mut self, now: Instant, address: IpAddr, by: MacAddress) {
        let begun = Dispute { by, since: now, ask: now + ASK, unanswered: 0 };
        self.entries.entry(address).or_insert(begun).unanswered = 0;
    }

    /// Forgets those that are settled: the address is not announced here any more, or the other node is gone.
    pub fn retain(&mut self, lasts: impl Fn(&IpAddr, MacAddress) -> bool) {
        self.entries.retain(|address, dispute| lasts(address, dispute.by));
    }

    /// Asks for what is in dispute, as far as the budget allows; where nobody answers any more it is settled.
    pub(super) fn poll(&mut self, now: Instant, budget: &mut Budget) -> Vec<Action> {
        self.entries.retain(|_, dispute| now < dispute.ask || dispute.unanswered < UNANSWERED);
        let mut due: Vec<(&IpAddr, &mut Dispute)> =
            self.entries.iter_mut().filter(|(_, dispute)| dispute.ask <= now).collect();
        // Who has waited longest comes first.
        due.sort_by_key(|(_, dispute)| dispute.ask);
        let mut actions = vec![];
        for (address, dispute) in due {
            if !budget.take(now, 1) {
                break;
            }
            dispute.unanswered += 1;
            dispute.ask = now + ASK;
            actions.push(Action::Contest(*address));
        }
        self.paced = Some(budget.next(now, 1)).filter(|next| *next > now);
        actions
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
    pub fn is_lasting(&self, now: Instant, address: IpAddr) -> bool {
        self.entries.get(&address).is_some_and(|dispute| dispute.since + LASTING <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_claim_that_is_kept_up_lasts_and_one_that_ends_is_settled() {
        let start = origin();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (mut disputes, mut budget) = (Disputes::default(), Budget::new(10));
        assert_eq!(disputes.deadline(), None);
        disputes.claim(start, address(1), OTHER);
        assert_eq!(disputes.poll(start, &mut budget), [], "it was heard just now");
        for second in 1..=3 {
            assert!(!disputes.is_lasting(after(second - 1), address(1)));
            assert_eq!(disputes.deadline(), Some(after(second)));
            assert_eq!(disputes.poll(after(second), &mut budget), [Action::Contest(address(1))]);
            disputes.claim(after(second), address(1), OTHER);
        }
        assert!(disputes.is_lasting(after(3), address(1)));
        assert!(!disputes.is_lasting(after(3), address(2)));
        for second in 4..=6 {
            assert_eq!(disputes.poll(after(second), &mut budget), [Action::Contest(address(1))]);
        }
        assert_eq!(disputes.poll(after(7), &mut budget), [], "nobody answered three times");
        assert!(disputes.is_empty());
    }

    #[test]
    fn a_dispute_ends_with_the_address_or_with_the_other_node() {
        let start = origin();
        let mut disputes = Disputes::default();
        for last in [1, 2] {
            disputes.claim(start, address(last), OTHER);
        }
        disputes.retain(|its, by| *its == address(1) && by == OTHER);
        assert!(disputes.is_lasting(start + LASTING, address(1)));
        assert!(!disputes.is_lasting(start + LASTING, address(2)));
        disputes.retain(|_, _| false);
        assert!(disputes.is_empty());
    }

    #[test]
    fn many_are_asked_for_at_the_pace_of_what_is_said_unasked() {
        let start = origin();
        let (mut disputes, mut budget) = (Disputes::default(), Budget::new(10));
        for last in 0..30 {
            disputes.claim(start, address(last), OTHER);
        }
        let mut asked = vec![];
        let mut now = start;
        for _ in 0..100 {
            now = disputes.deadline().expect("some are open").max(now);
            for action in disputes.poll(now, &mut budget) {
                let Action::Contest(address) = action else { panic!("{action:?}") };
                disputes.claim(now, address, OTHER);
                asked.push(address);
            }
        }
        let rate = asked.len() as f64 / (now - start).as_secs_f64();
        assert!((5.0..=11.0).contains(&rate), "{rate} a second");
        assert!((0..30).all(|last| asked.contains(&address(last))), "each has its turn");
    }
}
