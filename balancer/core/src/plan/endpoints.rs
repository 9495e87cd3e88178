//! Endpoints of Services, kept for every Service that there is: shared where they are the same, and without room for more.

use std::sync::Arc;

/// Endpoints of a Service that serve: ready, or terminating and still serving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Whether there is any.
    pub any: bool,
    /// Nodes that have one.
    pub nodes: NodeNames,
}

impl Endpoints {
    /// Adds those of another EndpointSlice.
    pub fn join(&mut self, other: &Self) {
        self.any |= other.any;
        self.nodes.join(&other.nodes);
    }
}

/// Names of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNames(
    /// In order, each once.
    Arc<[Box<str>]>,
);

impl NodeNames {
    /// Whether a node is among them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|known| (**known).cmp(name)).is_ok()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a node out; returns whether it was among them.
    pub fn remove(&mut self, name: &str) -> bool {
        let found = self.contains(name);
        if found {
            self.0 = self.0.iter().filter(|known| &***known != name).cloned().collect();
        }
        found
    }

    fn join(&mut self, others: &Self) {
        if self.is_empty() {
            self.0 = Arc::clone(&others.0);
        } else if others.0.iter().any(|name| !self.contains(name)) {
            *self = self.0.iter().chain(&*others.0).map(|name| &**name).collect();
        }
    }
}

impl<'a> FromIterator<&'a str> for NodeNames {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        Self(names.into_iter().map(Box::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(nodes: &[&str]) -> Endpoints {
        Endpoints { any: true, nodes: nodes.iter().copied().collect() }
    }

    #[test]
    fn endpoints_of_several_slices_are_those_of_all() {
        let mut joined = Endpoints::default();
        for (slice, want) in [
            (Endpoints::default(), Endpoints::default()),
            (endpoints(&["c", "a", "c"]), endpoints(&["a", "c"])),
            (endpoints(&[]), endpoints(&["a", "c"])),
            (endpoints(&["c"]), endpoints(&["a", "c"])),
            (endpoints(&["d", "b"]), endpoints(&["a", "b", "c", "d"])),
        ] {
            joined.join(&slice);
            assert_eq!(joined, want);
        }
        assert!(joined.nodes.contains("b") && !joined.nodes.contains("e"));
        assert_eq!((joined.nodes.remove("b"), joined.nodes.remove("b")), (true, false));
        assert_eq!(joined, endpoints(&["a", "c", "d"]));
    }

    #[test]
    fn a_service_with_one_slice_shares_its_names() {
        let slice = endpoints(&["a", "b"]);
        let mut joined = Endpoints::default();
        joined.join(&slice);
        assert!(Arc::ptr_eq(&joined.nodes.0, &slice.nodes.0));
    }
}
