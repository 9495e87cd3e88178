//! Who watches whom: members stand on a ring, and each sends heartbeats to those that follow it.
//!
//! A fixed number of watchers keeps a member's traffic the same in clusters of every size, and a fixed place bounds
//! the time to detection, which random probing does not.

use sha2::{Digest, Sha256};

/// Watchers of each member.
pub(super) const WATCHERS: usize = 3;

/// A place on the ring. Hashed, so that neighbours by name (one rack) are no neighbours on the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place([u8; 8]);

impl Place {
    pub(super) fn of(node: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(node).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self([a, b, c, d, e, f, g, h])
    }
}

/// The members that follow `me`, nearest first.
pub(super) fn successors<'a>(me: &str, members: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mine = Place::of(me);
    let mut ring: Vec<(bool, Place, &str)> = members
        .map(|member| {
            let place = Place::of(member);
            (place < mine, place, member)
        })
        .collect();
    ring.sort_unstable();
    ring.into_iter().take(WATCHERS).map(|(_, _, member)| member).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn everyone_watches_and_is_watched_by_three() {
        let nodes: Vec<String> = (0..50).map(|number| format!("node{number}")).collect();
        let mut watched_by = BTreeMap::<&str, usize>::new();
        for me in &nodes {
            let others = nodes.iter().filter(|node| *node != me).map(String::as_str);
            let followers = successors(me, others);
            assert_eq!(followers.len(), WATCHERS);
            for follower in followers {
                *watched_by.entry(follower).or_default() += 1;
            }
        }
        assert_eq!(watched_by.len(), nodes.len());
        assert!(watched_by.values().all(|count| *count == WATCHERS), "{watched_by:?}");
    }

    #[test]
    fn a_small_cluster_watches_itself_whole() {
        let mut followers = successors("a", ["b", "c"].into_iter());
        followers.sort_unstable();
        assert_eq!(followers, ["b", "c"]);
        assert_eq!(successors("a", std::iter::empty()), Vec::<&str>::new());
    }
}
