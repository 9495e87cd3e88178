//! Nodes whose speaker the API server does not answer while it answers others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For how long the API server answers some speakers and not another before that one counts as uninformed. When it goes
/// away or comes back, the speakers find out one after another, within less than this, and no address moves.
const PATIENCE: Duration = Duration::from_secs(15);

/// Since when each node has been less informed than another.
#[derive(Clone, Debug, Default)]
pub struct Uninformed {
    since: BTreeMap<String, Instant>,
}

impl Uninformed {
    /// Notes what the speakers say: by node, until when the API server answered while it does not, in seconds since the
    /// epoch; `None` while it does.
    pub fn observe(&mut self, now: Instant, known_until: &BTreeMap<String, Option<i64>>) {
        if known_until.values().all(Option::is_some) {
            self.since.clear();
            return;
        }
        let is_behind = |node: &str| known_until.get(node).is_some_and(Option::is_some);
        self.since.retain(|node, _| is_behind(node));
        for node in known_until.keys().filter(|node| is_behind(node)) {
            self.since.entry(node.clone()).or_insert(now);
        }
    }

    /// The nodes that are uninformed, and until when the API server answered them.
    pub fn nodes(&self, now: Instant, known_until: &BTreeMap<String, Option<i64>>) -> BTreeMap<String, i64> {
        let for_long = self.since.iter().filter(|(_, since)| **since + PATIENCE <= now);
        for_long.filter_map(|(node, _)| Some((node.clone(), (*known_until.get(node)?)?))).collect()
    }

    /// When the next node will count as uninformed.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.since.values().map(|since| *since + PATIENCE).filter(|end| *end > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn told(nodes: &[(&str, Option<i64>)]) -> BTreeMap<String, Option<i64>> {
        nodes.iter().map(|(node, until)| ((*node).to_owned(), *until)).collect()
    }

    #[test]
    fn a_node_counts_once_others_have_known_more_for_a_while() {
        let start = origin();
        let mut uninformed = Uninformed::default();
        type Step = (u64, [Option<i64>; 2], &'static [(&'static str, i64)]);
        // Seconds, what node1 and node2 say then, and which count.
        let steps: [Step; 11] = [
            (0, [None, None], &[]),
            (1, [Some(90), None], &[]),
            (15, [Some(90), None], &[]),
            (16, [Some(90), None], &[("node1", 90)]),
            // Each loses it now: nobody knows more.
            (20, [Some(90), Some(95)], &[]),
            (60, [Some(90), Some(95)], &[]),
            // Each finds out in its own time that it is back.
            (61, [Some(90), None], &[]),
            (66, [None, None], &[]),
            (67, [None, Some(160)], &[]),
            (82, [None, Some(160)], &[("node2", 160)]),
            (83, [None, None], &[]),
        ];
        for (second, says, counts) in steps {
            let now = start + Duration::from_secs(second);
            let told = told(&[("node1", says[0]), ("node2", says[1])]);
            uninformed.observe(now, &told);
            let counts = counts.iter().map(|(node, until)| ((*node).to_owned(), *until)).collect();
            assert_eq!(uninformed.nodes(now, &told), counts, "second {second}");
        }
    }

    #[test]
    fn it_counts_when_its_deadline_comes_and_not_after_its_end() {
        let start = origin();
        let mut uninformed = Uninformed::default();
        let both = told(&[("node1", Some(90)), ("node2", None)]);
        uninformed.observe(start, &both);
        let deadline = uninformed.deadline(start).unwrap();
        assert_eq!(deadline, start + PATIENCE);
        assert_eq!(uninformed.nodes(deadline, &both).len(), 1);
        assert_eq!(uninformed.deadline(deadline), None);
        let left = told(&[("node2", None)]);
        uninformed.observe(deadline, &left);
        assert_eq!(uninformed.nodes(deadline, &left), BTreeMap::new());
    }
}
