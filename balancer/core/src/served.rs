//! Which pools are served while some of their objects are wrong.

use std::{collections::BTreeMap, time::Duration};

use metallb_api::IPAddressPool;

use crate::{
    allocator::GRACE,
    config::{Objects, Pool, Problem, parse},
};

/// Reads the pools. An object that became wrong goes on being served as it was `before`, unless that overlaps a pool
/// which is right: a mistake in an edit takes no address away.
#[must_use]
pub fn serve(
    objects: &[&IPAddressPool],
    before: &BTreeMap<String, Pool>,
) -> (BTreeMap<String, Pool>, Vec<Problem>) {
    let (config, problems) = parse(&Objects { pools: objects.to_vec(), ..Objects::default() });
    let mut pools = config.pools;
    keep(&mut pools, objects.iter().copied(), before);
    (pools, problems)
}

/// Adds to the pools that were read from `objects` those that [`serve`] leaves as they were.
pub fn keep<'a>(
    pools: &mut BTreeMap<String, Pool>,
    objects: impl IntoIterator<Item = &'a IPAddressPool>,
    before: &BTreeMap<String, Pool>,
) {
    for name in objects.into_iter().filter_map(|object| object.metadata.name.as_ref()) {
        let Some(last) = before.get(name).filter(|_| !pools.contains_key(name)) else { continue };
        add(pools, name, last);
    }
}

/// Adds the pool unless it overlaps another.
fn add(pools: &mut BTreeMap<String, Pool>, name: &str, pool: &Pool) {
    let overlaps = |other: &Pool| other.ranges.iter().any(|a| pool.ranges.iter().any(|b| a.overlaps(b)));
    if !pools.values().any(overlaps) {
        pools.insert(name.to_owned(), pool.clone());
    }
}

/// Pools that went a short time ago. What Services hold of them is announced for as long as it stays theirs in case
/// the pool comes back ([`GRACE`]).
#[derive(Clone, Debug, Default)]
pub struct LatelyGone(BTreeMap<String, (Duration, Pool)>);

impl LatelyGone {
    /// Adds to `pools`, as they are at `now`, those that were there `before` and went a short time ago, unless they
    /// overlap others. `now` is any clock that does not go back.
    pub fn keep(
        &mut self,
        pools: &mut BTreeMap<String, Pool>,
        before: &BTreeMap<String, Pool>,
        now: Duration,
    ) {
        for (name, pool) in before.iter().filter(|(name, _)| !pools.contains_key(*name)) {
            self.0.entry(name.clone()).or_insert_with(|| (now.saturating_add(GRACE), pool.clone()));
        }
        self.0.retain(|name, (until, _)| *until > now && !pools.contains_key(name));
        for (name, (_, pool)) in &self.0 {
            add(pools, name, pool);
        }
    }

    /// When the next of them is to be forgotten: [`LatelyGone::keep`] is to be called then.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.0.values().map(|(until, _)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metallb_api::IPAddressPoolSpec;

    fn object(name: &str, addresses: &[&str]) -> IPAddressPool {
        let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
        IPAddressPool::new(name, IPAddressPoolSpec { addresses, ..IPAddressPoolSpec::default() })
    }

    fn ranges(pools: &BTreeMap<String, Pool>) -> Vec<(&str, String)> {
        pools.iter().map(|(name, pool)| (name.as_str(), pool.ranges[0].to_string())).collect()
    }

    #[test]
    fn a_mistake_in_an_edit_leaves_the_pool_as_it_was() {
        let good = [object("a", &["192.0.2.0/28"]), object("b", &["192.0.2.16/28"])];
        let (before, problems) = serve(&good.iter().collect::<Vec<_>>(), &BTreeMap::new());
        assert_eq!((ranges(&before).len(), problems.len()), (2, 0));

        let bad = [object("a", &["192.0.2.0/280"]), object("b", &["192.0.2.32/28"])];
        let (served, problems) = serve(&bad.iter().collect::<Vec<_>>(), &before);
        assert_eq!(ranges(&served), [("a", "192.0.2.0/28".into()), ("b", "192.0.2.32/28".into())]);
        assert_eq!(problems.len(), 1);

        let taken_over = [object("a", &["nonsense"]), object("b", &["192.0.2.0/24"])];
        let (served, _) = serve(&taken_over.iter().collect::<Vec<_>>(), &before);
        assert_eq!(ranges(&served), [("b", "192.0.2.0/24".into())]);

        let (served, _) = serve(&[&good[1]], &before);
        assert_eq!(ranges(&served), [("b", "192.0.2.16/28".into())], "a deleted pool is gone");
    }

    #[test]
    fn a_pool_that_went_is_announced_for_a_while() {
        let at = Duration::from_secs;
        let objects = [object("a", &["192.0.2.0/28"]), object("b", &["192.0.2.16/28"])];
        let read = |objects: &[&IPAddressPool]| serve(objects, &BTreeMap::new()).0;
        let (both, one) = (read(&[&objects[0], &objects[1]]), read(&[&objects[1]]));
        let mut gone = LatelyGone::default();
        let mut keep = |before: &BTreeMap<String, Pool>, now: &BTreeMap<String, Pool>, time| {
            let mut pools = now.clone();
            gone.keep(&mut pools, before, at(time));
            (pools, gone.deadline())
        };
        assert_eq!(keep(&BTreeMap::new(), &both, 0), (both.clone(), None));
        assert_eq!(keep(&both, &one, 100), (both.clone(), Some(at(100) + GRACE)), "it went");
        assert_eq!(keep(&both, &one, 109), (both.clone(), Some(at(100) + GRACE)), "another edit is no delay");
        assert_eq!(keep(&both, &both, 109), (both.clone(), None), "it is back");
        assert_eq!(keep(&both, &one, 200), (both.clone(), Some(at(200) + GRACE)), "it went again");
        assert_eq!(keep(&both, &one, 210), (one.clone(), None), "for good");
        assert_eq!(keep(&one, &one, 211), (one.clone(), None));

        let renamed = read(&[&object("new", &["192.0.2.0/24"])]);
        assert_eq!(keep(&both, &renamed, 300).0, renamed, "what it held is of another now");
    }
}
