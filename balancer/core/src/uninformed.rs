//! Nodes whose speaker the API server does not answer while it answers others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// For how long the API server answers some speakers and not another before that one counts as uninformed. When it goes
/// away or comes back, the speakers find out one after another, within less than this, and no address moves.
const PATIENCE: Duration = Duration::from_secs(20);

/// From when on each node counts that is less informed than another.
#[derive(Clone, Debug, Default)]
pub struct Uninformed {
    counts: BTreeMap<String, Instant>,
    /// Whether anything was observed yet: what others have known for long counts for a speaker that starts, too.
    observed: bool,
}

impl Uninformed {
    /// Notes what the speakers say of themselves: by node, whether it is uninformed.
    pub fn observe(&mut self, now: Instant, said: &BTreeMap<String, bool>) {
        let is_behind = |node: &str| said.get(node) == Some(&true);
        let from = if self.observed { now + PATIENCE } else { now };
        self.observed = true;
        if said.values().all(|behind| *behind) {
            // Nobody knows more now. Who counts knows less than the others did.
            self.counts.retain(|node, from| *from <= now && is_behind(node));
            return;
        }
        self.counts.retain(|node, _| is_behind(node));
        for node in said.keys().filter(|node| is_behind(node)) {
            self.counts.entry(node.clone()).or_insert(from);
        }
    }

    /// The nodes that are uninformed.
    pub fn nodes(&self, now: Instant) -> BTreeSet<String> {
        self.counts.iter().filter(|(_, from)| **from <= now).map(|(node, _)| node.clone()).collect()
    }

    /// When the next node will count as uninformed.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.counts.values().filter(|from| **from > now).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn origin() -> Instant {
        Instant::now()
    }

    /// What node1 and node2 say.
    fn said(uninformed: [bool; 2]) -> BTreeMap<String, bool> {
        ["node1", "node2"].map(str::to_owned).into_iter().zip(uninformed).collect()
    }

    #[test]
    fn a_node_counts_once_others_have_known_more_for_a_while() {
        let start = origin();
        let mut uninformed = Uninformed::default();
        // Seconds, whether node1 and node2 say that they are uninformed, and which count.
        let steps: [(u64, [bool; 2], &[&str]); 13] = [
            (0, [false, false], &[]),
            (1, [true, false], &[]),
            (20, [true, false], &[]),
            (21, [true, false], &["node1"]),
            // Now the other one loses it, too: it still knows more.
            (25, [true, true], &["node1"]),
            (60, [true, true], &["node1"]),
            (61, [true, false], &["node1"]),
            (62, [false, false], &[]),
            // Each loses it and finds out in its own time that it is back: nobody knew more for long.
            (70, [true, false], &[]),
            (84, [true, true], &[]),
            (120, [false, true], &[]),
            (125, [false, false], &[]),
            (140, [false, false], &[]),
        ];
        for (second, says, counts) in steps {
            let now = start + Duration::from_secs(second);
            uninformed.observe(now, &said(says));
            let counts = counts.iter().map(|node| (*node).to_owned()).collect();
            assert_eq!(uninformed.nodes(now), counts, "second {second}");
        }
    }

    #[test]
    fn it_counts_when_its_deadline_comes_and_not_after_its_end() {
        let start = origin();
        let mut uninformed = Uninformed::default();
        uninformed.observe(start, &said([false, false]));
        uninformed.observe(start, &said([true, false]));
        let deadline = uninformed.deadline(start).unwrap();
        assert_eq!(deadline, start + PATIENCE);
        assert_eq!(uninformed.nodes(deadline), ["node1".to_owned()].into());
        assert_eq!(uninformed.deadline(deadline), None);
        uninformed.observe(deadline, &[("node2".to_owned(), false)].into());
        assert_eq!(uninformed.nodes(deadline), BTreeSet::new());
    }

    #[test]
    fn for_a_speaker_that_starts_what_others_know_counts_at_once() {
        let start = origin();
        let mut uninformed = Uninformed::default();
        uninformed.observe(start, &said([true, false]));
        assert_eq!(uninformed.nodes(start), ["node1".to_owned()].into());
    }
}
