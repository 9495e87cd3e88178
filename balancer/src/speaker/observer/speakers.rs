//! The speakers by their pods, and the nodes that should have one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use metallb_proto::membership::Seed;

use super::inputs::update;
use crate::{speaker::facts::SpeakerFacts, watch::Change};

/// A node whose pod went counts for so long as one that gets another: a rollout is no smaller cluster. The DaemonSet
/// makes the next pod within seconds where one is wanted.
const SUCCESSION: Duration = Duration::from_secs(60);

/// The pods, and which nodes lately had one.
#[derive(Default)]
pub(super) struct Speakers {
    pods: BTreeMap<String, SpeakerFacts>,
    /// Nodes without a pod that had one, and until when they count.
    between: BTreeMap<String, Instant>,
}

impl Speakers {
    /// Takes what the watch of the pods brings at `now`; whether anything is another than before.
    pub(super) fn take(&mut self, change: Change<(String, SpeakerFacts)>, now: Instant) -> bool {
        let before = self.nodes();
        let changed = update(&mut self.pods, change, |speaker| speaker);
        let after = self.nodes();
        self.between.extend(before.into_iter().map(|node| (node, now + SUCCESSION)));
        self.between.retain(|node, _| !after.contains(node));
        changed
    }

    fn nodes(&self) -> BTreeSet<String> {
        self.pods.values().filter_map(|speaker| speaker.node.clone()).collect()
    }

    /// Where they are.
    pub(super) fn seeds(&self) -> Vec<Seed> {
        self.pods.values().filter_map(|speaker| speaker.seed.clone()).collect()
    }

    /// The nodes that should run one: those with a pod, and of those that `exist` also those that had one a short time
    /// ago.
    pub(super) fn expected(&self, exist: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let between = self.between.keys().filter(|node| exist(node)).cloned();
        self.nodes().into_iter().chain(between).collect()
    }

    /// When [`Speakers::pass`] is to be called though nothing comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.between.values().min().copied()
    }

    /// It is `now`: a node that got no other pod for so long should have none.
    pub(super) fn pass(&mut self, now: Instant) {
        self.between.retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>) -> (String, SpeakerFacts) {
        (name.to_owned(), SpeakerFacts { seed: None, node: node.map(str::to_owned) })
    }

    #[test]
    fn a_node_whose_pod_is_exchanged_goes_on_counting() {
        let (start, mut speakers) = (Instant::now(), Speakers::default());
        let late = start + SUCCESSION;
        let all = vec![pod("a", Some("node1")), pod("b", Some("node2")), pod("c", Some("node3"))];
        for (what, change, now, want, deadline) in [
            ("all", Change::All(all), start, &["node1", "node2", "node3"][..], None),
            ("one goes", Change::Gone(pod("c", None)), start, &["node1", "node2", "node3"], Some(late)),
            (
                "the next waits for its node",
                Change::Set(pod("d", None)),
                start,
                &["node1", "node2", "node3"],
                Some(late),
            ),
            ("and has it", Change::Set(pod("d", Some("node3"))), start, &["node1", "node2", "node3"], None),
            ("one ends", Change::Set(pod("d", None)), start, &["node1", "node2", "node3"], Some(late)),
            (
                "a moment later nothing is new",
                Change::Set(pod("d", None)),
                late - Duration::from_millis(1),
                &["node1", "node2", "node3"],
                Some(late),
            ),
            ("no other came", Change::Set(pod("d", None)), late, &["node1", "node2"], None),
            (
                "its node is gone",
                Change::All(vec![pod("a", Some("node1"))]),
                late,
                &["node1"],
                Some(late + SUCCESSION),
            ),
        ] {
            speakers.take(change, now);
            speakers.pass(now);
            let expected = speakers.expected(|node| what != "its node is gone" || node != "node2");
            assert_eq!(expected, want.iter().map(|node| (*node).to_owned()).collect(), "{what}");
            assert_eq!(speakers.deadline(), deadline, "{what}");
        }
    }
}
