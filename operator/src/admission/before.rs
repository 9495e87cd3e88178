//! Problems that an object had before it was edited.

use std::collections::BTreeMap;

/// Problems that there were, wherever in its list the value stood that had one.
pub(super) struct Before(BTreeMap<String, usize>);

impl Before {
    pub(super) fn new<'a>(problems: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = BTreeMap::new();
        problems.for_each(|problem| *counts.entry(without_indices(problem)).or_default() += 1);
        Self(counts)
    }

    /// Whether `problem` was there; each counts for one.
    pub(super) fn had(&mut self, problem: &str) -> bool {
        let left = self.0.get_mut(&without_indices(problem)).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }
}

/// `spec.list[0].field` without its index.
fn without_indices(text: &str) -> String {
    let mut parts = text.split('[');
    let mut without = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((index, rest)) if !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()) => {
                without.push_str("[]");
                without.push_str(rest);
            }
            _ => {
                without.push('[');
                without.push_str(part);
            }
        }
    }
    without
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_indices() {
        let text = "a[0].b[12]c[key] [2001:db8::1]:179 [";
        assert_eq!(without_indices(text), "a[].b[]c[key] [2001:db8::1]:179 [");
    }
}
